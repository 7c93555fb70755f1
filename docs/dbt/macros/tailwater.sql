{#
  Incremental models that recompute the keys of a fact, and no others.  dbt-postgres runs a model's hooks in the model's
  transaction, so that what is claimed, what is written and what is acknowledged commit together: exactly once.

    {{ config(materialized='incremental', incremental_strategy='append',
              pre_hook="{{ tailwater_claim('bill', ['id'], 'select id from bills') }}",
              post_hook="{{ tailwater_ack('bill') }}") }}
    select … from bills b {% if is_incremental() %} join {{ tailwater_keys('bill') }} k on k.id = b.id {% endif %}

  fact      the fact's name in Tailwater's configuration
  key       its key columns, as the model calls them too
  all_keys  a query of the keys that there are: for windows that say "everything" (the first one, after a truncate …)
  consumer  who reads: 'dbt_' and the model's name.  Two models with one consumer would have half of the keys each
  max_keys  of one window

  A run takes one window: of what changed by itself or through others, or everything.  Run the model again while it has
  written something, or "tailwater ledger status" says that the consumer has pending keys.
#}

{# Once: from then on the ledger keeps what the consumer has not read.  Again, it does nothing. #}
{% macro tailwater_subscribe(fact, consumer) -%}
select tailwater.subscribe('{{ consumer }}', '{{ fact }}', start => 'all')
{%- endmacro %}

{#
  Pre-hook.  Claims a window, lists its keys, and takes the rows of these keys out of the model, which puts back those that
  there are still.  The list is a table with statistics, since a model's query is planned by its size: a function in its
  place would be expected to have a thousand rows whatever it has.
#}
{% macro tailwater_claim(fact, key, all_keys, consumer=none, max_keys=1000000) -%}
{%- set consumer = consumer or 'dbt_' ~ this.identifier %}
create temporary table tailwater_window_{{ fact }} on commit drop as
    select '{{ consumer }}'::text as consumer, * from tailwater.claim('{{ consumer }}', '{{ fact }}', {{ max_keys }});
create temporary table {{ tailwater_keys(fact) }} on commit drop as
    select {% for column in key %}k.{{ column }}{{ ', ' if not loop.last }}{% endfor %}
      from (select * from tailwater_window_{{ fact }} where not everything) w
           cross join lateral tailwater.keys_{{ fact }}(w.consumer) k
    union
    select * from ({{ all_keys }}) a where exists (select from tailwater_window_{{ fact }} where everything);
analyze {{ tailwater_keys(fact) }};
{%- if is_incremental() %}
delete from {{ this }} where exists (select from tailwater_window_{{ fact }} where everything);
delete from {{ this }} t using {{ tailwater_keys(fact) }} k
    where {% for column in key %}t.{{ column }} = k.{{ column }}{{ ' and ' if not loop.last }}{% endfor %};
{%- endif %}
{%- endmacro %}

{# The window's keys: a table with the key's columns, as long as the model's transaction. #}
{% macro tailwater_keys(fact) -%}
tailwater_keys_{{ fact }}
{%- endmacro %}

{# Post-hook.  Not with the result of another claim: where the first one found nothing, that one may have found something. #}
{% macro tailwater_ack(fact) -%}
select tailwater.ack(consumer, '{{ fact }}', claim_id) from tailwater_window_{{ fact }}
{%- endmacro %}
