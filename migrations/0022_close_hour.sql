-- An hour's distinct keys were found by sorting all that the ledger got in it: a hundred million rows are minutes of a
-- processor and gigabytes of temporary files, once an hour.

-- Distinct keys of some nodes in a range of a fact's ledger; of share keys about one is looked at, chosen by its text.
create function tailwater.count_distinct(f tailwater.fact, low bigint, high bigint, nodes smallint[], share bigint)
returns table (node smallint, keys bigint)
language plpgsql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_sort = off
set work_mem = '64MB' set jit = off set max_parallel_workers_per_gather = 0 as $$
declare
    names text := (select string_agg(format('l.%I', k), ', ') from unnest(f.key_names) k);
    chosen text := '';
begin
    if share > 1 then
        chosen := format(' and hashtextextended(row(%s)::text, 0) %% %s = 0', names, share);
    end if;
    return query execute format('select u.node, count(*) * $4 from (select distinct l.node, %s from tailwater.%I l '
                                'where l.batch_id > $1 and l.batch_id <= $2 and l.lane < 2 and l.node = any ($3)%s) u '
                                'group by 1', names, 'ledger_' || f.name, chosen)
        using low, high, nodes, share;
end
$$;

-- Counts the distinct keys of one hour that is over, of one fact; false where no such hour is left.  Up to so many rows
-- exactly; of more, a sample tells, and where too little is in the sample to tell, there are few keys and they are counted.
-- A count that the ledger does not hold whole any more stays unknown.
drop function tailwater.close_hour(text);
create function tailwater.close_hour(pipeline text, exact_up_to bigint default 2000000) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    h record;
    f tailwater.fact;
    low bigint;
    high bigint;
    share bigint;
    few smallint[];
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
        f := tailwater.find_fact(h.fact);
        low := tailwater.batch_at(close_hour.pipeline, h.hour);
        high := tailwater.batch_at(close_hour.pipeline, h.hour + interval '1 hour');
        select greatest(ceil(sum(s.keys_written) / exact_up_to), 1) into share
            from tailwater.dimension_statistic s where s.fact = h.fact and s.hour = h.hour;
        update tailwater.dimension_statistic s set distinct_keys = coalesce(d.keys, 0)
            from tailwater.fact_node n
            left join tailwater.count_distinct(f, low, high, (select array_agg(a.node) from tailwater.fact_node a
                                                               where a.fact = h.fact), share) d on d.node = n.node
            where n.fact = h.fact and s.fact = h.fact and s.hour = h.hour and s.node = n.node;
        if share > 1 then
            select array_agg(s.node) into few from tailwater.dimension_statistic s
                where s.fact = h.fact and s.hour = h.hour and s.distinct_keys < 1000 * share;
            update tailwater.dimension_statistic s set distinct_keys = d.keys
                from tailwater.count_distinct(f, low, high, few, 1) d
                where s.fact = h.fact and s.hour = h.hour and s.node = d.node;
        end if;
    end if;
    update tailwater.dimension_statistic s set is_closed = true where s.fact = h.fact and s.hour = h.hour;
    delete from tailwater.dimension_statistic s where s.fact = h.fact and s.hour < clock_timestamp() - interval '90 days';
    return true;
end
$$;
revoke execute on function tailwater.count_distinct(tailwater.fact, bigint, bigint, smallint[], bigint),
                           tailwater.close_hour(text, bigint) from public;
