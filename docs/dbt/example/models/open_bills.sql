{{ config(materialized='incremental', incremental_strategy='append',
          pre_hook="{{ tailwater.tailwater_claim('bill', ['id'], 'select id from bills') }}",
          post_hook="{{ tailwater.tailwater_ack('bill') }}") }}

select b.id, b.customer, b.amount - coalesce(sum(p.paid), 0) as open
  from bills b
{% if is_incremental() %}
  join {{ tailwater.tailwater_keys('bill') }} k on k.id = b.id
{% endif %}
  left join payments p on p.bill_id = b.id
 group by b.id, b.customer, b.amount
