-- Facts over derived tables: who keeps such a table gives keys to the facts that read it, in the transaction that writes it.

-- What the facts over it may read, and what tells its rows apart (empty: nothing does).
alter table tailwater.refresh
    add column columns text[] not null default '{}',
    add column unique_columns text[] not null default '{}';

alter table tailwater.batch drop constraint batch_kind_check;
alter table tailwater.batch add constraint batch_kind_check
    check (kind in ('stream', 'repair', 'resync', 'fan-out', 'backfill', 'manual', 'refresh'));

-- Why no window can be given now; null where one can.  A derived table is ready once it is there: what it does not have yet
-- comes with keys.
create or replace function tailwater.why_waiting(f tailwater.fact) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
    select coalesce('suspended: ' || f.suspended,
        (select 'not ready: ' || string_agg(distinct format('%s.%s', n.schema, n.table_name), ', ')
           from tailwater.fact_node n
           left join tailwater.mirror_table t
             on t.pipeline = f.pipeline and t.schema = n.schema and t.name = n.table_name
          where n.fact = f.name and t.state is distinct from 'ready'
            and not exists (select from tailwater.refresh r where r.into_schema = n.schema and r.into_name = n.table_name)))
$$;

-- A node's rows that count, for a FROM clause, under an alias: the stored copy's live ones, or a derived table's.
create function tailwater.node_rows(pipeline text, schema text, table_name text, alias text, out rows text, out live text)
language sql stable set search_path = pg_catalog, pg_temp as $$
    select format('%I.%I %I', t.mirror_schema, t.mirror_name, $4), format('%I._deleted_at is null', $4)
      from tailwater.mirror_table t where t.pipeline = $1 and t.schema = $2 and t.name = $3
    union all
    select format('%I.%I %I', r.into_schema, r.into_name, $4), 'true'
      from tailwater.refresh r join tailwater.fact f on f.name = r.fact
     where f.pipeline = $1 and r.into_schema = $2 and r.into_name = $3
     limit 1
$$;

-- As before (0002_ledger.sql), with derived tables on the way.
create or replace function tailwater.sample_candidate(fact text, node smallint, schema text, table_name text, columns text[],
                                                      node_columns text[], out sampled bigint, out keys bigint)
language plpgsql stable set search_path = pg_catalog, pg_temp set statement_timeout = '30s' as $$
declare
    f tailwater.fact := tailwater.find_fact(fact);
    candidate text;
    stored record;
    n record;
    child text := 'c';
    child_columns text[] := columns;
    own_columns text[] := node_columns;
    joins text := '';
    key text;
begin
    select format('%I.%I', t.mirror_schema, t.mirror_name) into candidate from tailwater.mirror_table t
        where t.pipeline = f.pipeline and t.schema = sample_candidate.schema and t.name = sample_candidate.table_name
          and t.state = 'ready';
    if candidate is null then
        return;
    end if;
    loop
        select * into strict n from tailwater.fact_node a where a.fact = f.name and a.node = sample_candidate.node;
        select * into strict stored from tailwater.node_rows(f.pipeline, n.schema, n.table_name, 'n' || n.node);
        joins := joins || format(' join %s on %s and ', stored.rows, stored.live)
            || (select string_agg(format('n%s.%I = %s.%I', n.node, j.own, child, j.other), ' and ')
                  from unnest(own_columns, child_columns) j(own, other));
        exit when n.parent is null;
        child := 'n' || n.node;
        child_columns := n.columns;
        own_columns := n.parent_columns;
        node := n.parent;
    end loop;
    select string_agg(k.value ->> 'sql', ', ' order by k.i) into key
        from jsonb_array_elements(f.definition -> 'key') with ordinality k(value, i);
    execute format('with c as materialized (select * from %s where _deleted_at is null limit 1000), '
                   'j as (select row(k.*)::text as key from c %s cross join lateral '
                   '(select %s from (select n0.*) as %I) k limit 1000000) '
                   'select (select count(*) from c), (select count(distinct j.key) from j)',
                   candidate, joins, key, n.name)
        into sampled, keys;
end
$$;

-- Everything is owed by the facts that read this derived table: it is another one than before.
create function tailwater.owe_to_readers(pipeline text, schema text, table_name text, reason text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    number bigint;
begin
    if not exists (select from tailwater.fact_node n join tailwater.fact f on f.name = n.fact
                    where f.pipeline = owe_to_readers.pipeline and n.schema = owe_to_readers.schema
                      and n.table_name = owe_to_readers.table_name) then
        return;
    end if;
    number := tailwater.next_batch(pipeline);
    insert into tailwater.everything (fact, generation, batch_id, reason)
        select distinct f.name, f.generation, number, owe_to_readers.reason
          from tailwater.fact_node n join tailwater.fact f on f.name = n.fact
         where f.pipeline = owe_to_readers.pipeline and n.schema = owe_to_readers.schema
           and n.table_name = owe_to_readers.table_name;
    insert into tailwater.batch (pipeline, batch_id, kind, lsn_from, lsn_to, changes, keys)
        select k.pipeline, number, 'manual', k.cursor, k.cursor, 0, 0 from tailwater.clock k
         where k.pipeline = owe_to_readers.pipeline;
end
$$;

revoke execute on all functions in schema tailwater from public;
