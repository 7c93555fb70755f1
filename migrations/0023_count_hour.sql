-- Where an hour's distinct keys are estimated, dimensions that wrote nothing in it counted among those that wrote little, and
-- all of the hour was read a second time for them.

-- As before; a key of one integer is chosen by its own hash, any other by its text: of keys that
-- are equal in other spellings (1.0 and 1.00) an estimate counts each spelling, an exact count does not.
create or replace function tailwater.count_distinct(f tailwater.fact, low bigint, high bigint, nodes smallint[], share bigint)
returns table (node smallint, keys bigint)
language plpgsql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_sort = off
set work_mem = '64MB' set jit = off set max_parallel_workers_per_gather = 0 as $$
declare
    names text := (select string_agg(format('l.%I', k), ', ') from unnest(f.key_names) k);
    is_integer boolean := (select count(*) = 1 and bool_and(a.atttypid in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype))
                             from unnest(f.key_names) k
                             join pg_attribute a on a.attrelid = format('tailwater.%I', 'ledger_' || f.name)::regclass
                                                and a.attname = k);
    chosen text := '';
begin
    if share > 1 then
        chosen := format(case when is_integer then ' and hashint8extended((%s)::bigint, 0) %% %s = 0'
                              else ' and hashtextextended(row(%s)::text, 0) %% %s = 0' end, names, share);
    end if;
    return query execute format('select u.node, count(*) * $4 from (select distinct l.node, %s from tailwater.%I l '
                                'where l.batch_id > $1 and l.batch_id <= $2 and l.lane < 2 and l.node = any ($3)%s) u '
                                'group by 1', names, 'ledger_' || f.name, chosen)
        using low, high, nodes, share;
end
$$;

-- The distinct keys of an hour of a fact, by dimension, into its statistics.  Up to so many rows exactly; of more, a sample
-- tells, and where too little of a dimension is in the sample to tell, it has few keys and they are counted.
create function tailwater.count_hour(pipeline text, fact text, hour timestamptz, exact_up_to bigint) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    f tailwater.fact := tailwater.find_fact(fact);
    low bigint := tailwater.batch_at(pipeline, hour);
    high bigint := tailwater.batch_at(pipeline, hour + interval '1 hour');
    share bigint;
    nodes smallint[];
begin
    select greatest(ceil(sum(s.keys_written) / exact_up_to), 1) into share
        from tailwater.dimension_statistic s where s.fact = count_hour.fact and s.hour = count_hour.hour;
    select array_agg(n.node) into nodes from tailwater.fact_node n where n.fact = count_hour.fact;
    loop
        update tailwater.dimension_statistic s set distinct_keys = coalesce(d.keys, 0)
            from unnest(nodes) n (node) left join tailwater.count_distinct(f, low, high, nodes, share) d on d.node = n.node
            where s.fact = count_hour.fact and s.hour = count_hour.hour and s.node = n.node;
        exit when share = 1;
        select array_agg(s.node) into nodes from tailwater.dimension_statistic s
            where s.fact = count_hour.fact and s.hour = count_hour.hour
              and s.keys_written > 0 and s.distinct_keys < 1000 * share;
        exit when nodes is null;
        share := 1;
    end loop;
end
$$;

-- Counts the distinct keys of one hour that is over, of one fact; false where no such hour is left.  A count that the ledger
-- does not hold whole any more stays unknown.
create or replace function tailwater.close_hour(pipeline text, exact_up_to bigint default 2000000) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    h record;
begin
    select s.fact, s.hour, l.kept_since into h
        from tailwater.dimension_statistic s join tailwater.fact o on o.name = s.fact
        join tailwater.ledger_floor l on l.fact = o.name
        where o.pipeline = close_hour.pipeline and not s.is_closed
          and s.hour < date_trunc('hour', clock_timestamp() - interval '1 minute', 'UTC')
        order by s.hour, s.fact limit 1;
    if h is null then
        return false;
    end if;
    if h.hour >= h.kept_since then
        perform tailwater.count_hour(pipeline, h.fact, h.hour, exact_up_to);
    end if;
    update tailwater.dimension_statistic s set is_closed = true where s.fact = h.fact and s.hour = h.hour;
    delete from tailwater.dimension_statistic s where s.fact = h.fact and s.hour < clock_timestamp() - interval '90 days';
    return true;
end
$$;
revoke execute on function tailwater.count_hour(text, text, timestamptz, bigint) from public;
