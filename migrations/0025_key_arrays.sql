-- A row of a ledger may hold many keys, as arrays: those of a fan-out, which come by the million.  A million rows of a key
-- each took the server three times as long as finding the keys, and whatever else it did waited for it.

-- Columns for arrays of the parts of the key, "keys$1" and so on, null in a row of one key; and the view of all keys one by
-- one, affected_<fact>.  A type without arrays (an array itself; a composite, whose parts unnest() would give) has none.  Where
-- somebody reads the ledger, the columns are left to the next start: until then keys come one in a row.
create function tailwater.add_key_arrays(fact text) returns void
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $$
declare
    f tailwater.fact;
    ledger text := format('tailwater.%I', 'ledger_' || fact);
    seen text := format('tailwater.%I', 'affected_' || fact);
    added text;    -- add column "keys$1" bigint[]
    names text;    -- "id", "day"
    single text;   -- l."id", l."day"
    unnested text; -- u."id", u."day"
    arrays text;   -- l."keys$1", l."keys$2"
    are_there boolean;
    possible boolean;
    query text;
    reader text;
begin
    select * into strict f from tailwater.fact a where a.name = add_key_arrays.fact;
    select string_agg(format('add column %I %s', 'keys$' || k.i, format_type(t.typarray, -1)), ', ' order by k.i),
           string_agg(format('%I', k.name), ', ' order by k.i), string_agg(format('l.%I', k.name), ', ' order by k.i),
           string_agg(format('u.%I', k.name), ', ' order by k.i),
           string_agg(format('l.%I', 'keys$' || k.i), ', ' order by k.i),
           bool_and(t.typarray <> 0 and t.typcategory not in ('A', 'C', 'P') and k.name not like 'keys$%')
        into added, names, single, unnested, arrays, possible
        from unnest(f.key_names, f.key_types) with ordinality k(name, type, i) join pg_type t on t.oid = k.type::regtype;
    select exists (select from pg_attribute a where a.attrelid = ledger::regclass and a.attname = 'keys$1') into are_there;
    if to_regclass(seen) is not null and (are_there or not possible) then
        return;
    end if;
    if possible and not are_there then
        begin
            execute format('alter table %s %s', ledger, added);
            perform tailwater.leave_arrays_out('ledger_' || f.name);
            perform tailwater.leave_arrays_out(p.name) from tailwater.ledger_partitions(f.name) p where p.is_attached;
        exception when lock_not_available then
            if to_regclass(seen) is not null then
                return;
            end if;
            possible := false;
        end;
    end if;
    query := format('select l.batch_id, l.lane, l.node, %s from %s l', single, ledger);
    if possible then
        query := format('%s where l."keys$1" is null union all select l.batch_id, l.lane, l.node, %s from %s l '
                        'cross join lateral unnest(%s) u(%s) where l."keys$1" is not null',
                        query, unnested, ledger, arrays, names);
    end if;
    execute format('create or replace view %s as %s', seen, query);
    -- Whoever was let read the ledger.
    for reader in select case when a.grantee = 0 then 'public' else a.grantee::regrole::text end
                    from pg_class c cross join aclexplode(c.relacl) a
                   where c.oid = ledger::regclass and a.privilege_type = 'SELECT' and a.grantee <> c.relowner loop
        execute format('grant select on %s to %s', seen, reader);
    end loop;
end
$$;

-- Nobody asks for an element of an array of keys, and to count them all was most of an ANALYZE.
create function tailwater.leave_arrays_out(name text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    changes text;
begin
    select string_agg(format('alter column %I set statistics 0', a.attname), ', ') into changes from pg_attribute a
        where a.attrelid = format('tailwater.%I', name)::regclass and a.attname like 'keys$%' and not a.attisdropped;
    if changes is not null then
        execute format('alter table only tailwater.%I %s', name, changes);
    end if;
end
$$;

-- keys_<fact>().  Stable, and so under the snapshot of the statement that calls it: a window that the same statement claims is
-- not there yet.  What that statement reads would be older than the window.
create function tailwater.make_keys_function(fact text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    f tailwater.fact;
    columns text; -- "id" bigint, "day" date
    names text;   -- l."id", l."day"
begin
    select * into strict f from tailwater.fact a where a.name = make_keys_function.fact;
    select string_agg(format('%I %s', k.name, format_type(k.type::regtype, -1)), ', ' order by k.i),
           string_agg(format('l.%I', k.name), ', ' order by k.i)
        into columns, names
        from unnest(f.key_names, f.key_types) with ordinality k(name, type, i);
    -- Arrays are of the fan-out lane alone: the others are read once.
    execute format($f$
        create or replace function tailwater.%I(text) returns table (%s)
        language plpgsql stable security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off
set max_parallel_workers_per_gather = 0 as $body$
        #variable_conflict use_column
        declare
            tailwater_window tailwater.consumer;
        begin
            tailwater_window := tailwater.open_window($1, %L);
            if tailwater_window.claim_lane = 1 then
                return query select distinct %s from tailwater.%I l
                    where l.batch_id between tailwater_window.claim_from and tailwater_window.claim_to and l.lane = 1;
            else
                return query select distinct %s from tailwater.%I l
                    where l.batch_id between tailwater_window.claim_from and tailwater_window.claim_to
                      and l.lane = tailwater_window.claim_lane;
            end if;
        end
        $body$ $f$, 'keys_' || f.name, columns, f.name, names, 'affected_' || f.name, names, 'ledger_' || f.name);
end
$$;

-- As before (0002_ledger.sql); arrays of some hundred keys lie in the row, and nobody tries to compress them: that took as long
-- as finding the keys.
create or replace function tailwater.add_partitions(pipeline text) returns integer
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    f record;
    made integer := 0;
    now_at bigint;
    top bigint;
    ahead integer;
    current_lower bigint;
    width bigint;
    is_locked boolean;
begin
    for f in select a.name, format('ledger_%s', a.name) as ledger from tailwater.fact a
              where a.pipeline = add_partitions.pipeline order by a.name loop
        if to_regclass(format('tailwater.%I', f.ledger)) is null then
            continue;
        end if;
        is_locked := false;
        loop
            select k.batch_id into now_at from tailwater.clock k where k.pipeline = add_partitions.pipeline;
            select max(p.upper), count(*) filter (where p.lower > now_at), max(p.lower) filter (where p.lower <= now_at)
                into top, ahead, current_lower
                from tailwater.ledger_partitions(f.name) p where p.is_attached;
            exit when ahead >= 2 and top > now_at + 5000;
            if not is_locked then
                -- Attaching takes this lock anyway.  Held from here on, two who come together do not make the same.
                execute format('lock table tailwater.%I in share update exclusive mode', f.ledger);
                is_locked := true;
                continue;
            end if;
            top := greatest(coalesce(top, now_at), 0);
            width := tailwater.partition_width(add_partitions.pipeline, coalesce(current_lower, top));
            execute format('create table tailwater.%I (like tailwater.%I) with (toast_tuple_target = 8160)',
                           f.ledger || '$' || top, f.ledger);
            perform tailwater.leave_arrays_out(f.ledger || '$' || top);
            execute format('alter table tailwater.%I attach partition tailwater.%I for values from (%s) to (%s)',
                           f.ledger, f.ledger || '$' || top, top, top + width);
            made := made + 1;
        end loop;
    end loop;
    return made;
end
$$;

-- As before, with arrays.
create or replace function tailwater.make_ledger(fact text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    f tailwater.fact;
    ledger text;
    columns text; -- "id" bigint, "day" date
    is_same boolean;
    grantee text;
begin
    select * into strict f from tailwater.fact a where a.name = make_ledger.fact;
    ledger := 'ledger_' || f.name;
    if f.key_names && array['batch_id', 'lane', 'node'] or exists (select from unnest(f.key_names) n where n like 'keys$%') then
        raise exception using errcode = '22023',
            message = format('a key column of fact %s is named batch_id, lane, node or keys$…', f.name),
            hint = 'these are columns of every ledger: name the key column otherwise';
    end if;
    -- Without a length or scale: the values have theirs.
    select string_agg(format('%I %s', k.name, format_type(k.type::regtype, -1)), ', ' order by k.i) into columns
        from unnest(f.key_names, f.key_types) with ordinality k(name, type, i);
    if to_regclass(format('tailwater.%I', ledger)) is not null then
        select coalesce(string_agg(format('%I %s', a.attname, format_type(a.atttypid, -1)), ', ' order by a.attnum), '')
               = columns into is_same
            from pg_attribute a
            where a.attrelid = format('tailwater.%I', ledger)::regclass and a.attnum > 3 and not a.attisdropped
              and a.attname not like 'keys$%';
        if is_same then
            perform tailwater.add_key_arrays(f.name);
            perform tailwater.add_partitions(f.pipeline);
            return;
        end if;
        perform tailwater.drop_ledger(f.name);
    end if;
    execute format('create table tailwater.%I (batch_id bigint not null, lane smallint not null, node smallint not null, %s) '
                   'partition by range (batch_id)', ledger, columns);
    execute format('create index on tailwater.%I using brin (batch_id) with (pages_per_range = 32, autosummarize = on)',
                   ledger);
    insert into tailwater.ledger_floor (fact, kept_from)
        select f.name, k.batch_id from tailwater.clock k where k.pipeline = f.pipeline
        on conflict on constraint ledger_floor_pkey do update
           set kept_from = excluded.kept_from, kept_since = clock_timestamp();
    perform tailwater.add_key_arrays(f.name);
    perform tailwater.add_partitions(f.pipeline);
    perform tailwater.make_keys_function(f.name);
    execute format('revoke all on function tailwater.%I(text) from public', 'keys_' || f.name);
    for grantee in select r.name from tailwater.consumer_roles() r(name) loop
        execute format('grant execute on function tailwater.%I(text) to %I', 'keys_' || f.name, grantee);
    end loop;
end
$$;

-- And the view.
create or replace function tailwater.drop_ledger(fact text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    part text;
begin
    execute format('drop function if exists tailwater.%I(text)', 'keys_' || fact);
    execute format('drop view if exists tailwater.%I', 'affected_' || fact);
    execute format('drop table if exists tailwater.%I', 'ledger_' || fact);
    for part in select p.name from tailwater.ledger_partitions(fact) p loop
        execute format('drop table tailwater.%I', part); -- detached, and not yet dropped
    end loop;
end
$$;

-- As before; arrays count as what they hold.
create or replace function tailwater.find_window(f tailwater.fact, lane smallint, done bigint, up_to bigint, max_keys bigint,
                                      out to_batch bigint, out keys bigint)
language plpgsql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off
set max_parallel_workers_per_gather = 0 as $$
declare
    low bigint := done;
    high bigint;
    b record;
begin
    keys := 0;
    to_batch := up_to;
    while low < up_to loop
        -- A piece ends where all facts together have max_keys, or ten thousand, or after ten thousand batches.
        select s.batch_id into high
            from (select p.batch_id, row_number() over (order by p.batch_id) as n,
                         sum(greatest(coalesce(p.keys, 0), 1)) over (order by p.batch_id) as total
                    from tailwater.batch p
                   where p.pipeline = f.pipeline and p.batch_id > low and p.batch_id <= up_to) s
            where s.total >= greatest(max_keys, 10000) or s.n >= 10000
            order by s.batch_id limit 1;
        high := coalesce(high, up_to);
        for b in execute format('select l.batch_id, count(*) as n from tailwater.%I l '
                                'where l.batch_id > $1 and l.batch_id <= $2 and l.lane = $3 group by 1 order by 1',
                                case lane when 1 then 'affected_' else 'ledger_' end || f.name)
                 using low, high, lane loop
            if keys > 0 and keys + b.n > max_keys then
                return;
            end if;
            keys := keys + b.n;
            to_batch := b.batch_id;
        end loop;
        if keys >= max_keys then
            return;
        end if;
        low := high;
    end loop;
    to_batch := up_to;
end
$$;

-- Are more than limit keys pending?  Counted only where the tables are large enough to hold so many.
create or replace function tailwater.exceeds(c tailwater.consumer, max_keys bigint) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off
set max_parallel_workers_per_gather = 0 as $$
declare
    lowest bigint := least(c.fresh_done, c.fan_out_done, c.backfill_done);
    bytes numeric;
    in_arrays numeric;
    n bigint;
begin
    select sum(pg_relation_size(format('tailwater.%I', p.name)::regclass)) into bytes
        from tailwater.ledger_partitions(c.fact) p where p.is_attached and p.upper > lowest;
    -- The least that a row takes; one of arrays holds 2000 keys at most, and the batches tell how many all facts have in such.
    if coalesce(bytes, 0) * 2000 <= max_keys::numeric * 36 then
        return false;
    end if;
    select coalesce(sum(b.keys), 0) into in_arrays from tailwater.batch b join tailwater.fact f on f.pipeline = b.pipeline
        where f.name = c.fact and b.batch_id > lowest and b.kind = 'fan-out';
    if bytes <= (max_keys - in_arrays) * 36 then
        return false;
    end if;
    execute format('select count(*) from (select from tailwater.%I l where l.batch_id > $1 and '
                   '(l.lane = 0 and l.batch_id > $2 or l.lane = 1 and l.batch_id > $3 or l.lane = 2 and l.batch_id > $4) '
                   'limit $5) s', 'affected_' || c.fact)
        into n using lowest, c.fresh_done, c.fan_out_done, c.backfill_done, max_keys + 1;
    return n > max_keys;
end
$$;

-- How much is pending up to a batch, counted to a limit, and the oldest batch of as many rows: these lie in the order of
-- batches.
create or replace function tailwater.pending(c tailwater.consumer, up_to bigint, max_keys bigint, out keys bigint, out oldest bigint)
language plpgsql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off
set max_parallel_workers_per_gather = 0 as $$
declare
    lowest bigint := least(c.fresh_done, c.fan_out_done, c.backfill_done);
    rows text := 'select l.batch_id from tailwater.%I l where l.batch_id > $1 and l.batch_id <= $2 and '
                 '(l.lane = 0 and l.batch_id > $3 or l.lane = 1 and l.batch_id > $4 or l.lane = 2 and l.batch_id > $5) limit $6';
begin
    execute format('select count(*) from (' || rows || ') s', 'affected_' || c.fact)
        into keys using lowest, up_to, c.fresh_done, c.fan_out_done, c.backfill_done, max_keys;
    execute format('select min(s.batch_id) from (' || rows || ') s', 'ledger_' || c.fact)
        into oldest using lowest, up_to, c.fresh_done, c.fan_out_done, c.backfill_done, max_keys;
end
$$;

-- As before (0023_count_hour.sql), of keys one by one.
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
                                'group by 1', names, 'affected_' || f.name, chosen)
        using low, high, nodes, share;
end
$$;

revoke execute on function tailwater.add_key_arrays(text), tailwater.leave_arrays_out(text),
                           tailwater.make_keys_function(text) from public;

-- Ledgers that are there.
do $$
declare
    fact text;
begin
    for fact in select f.name from tailwater.fact f where to_regclass(format('tailwater.%I', 'ledger_' || f.name)) is not null
                 order by f.name loop
        perform tailwater.add_key_arrays(fact);
        perform tailwater.make_keys_function(fact);
    end loop;
end
$$;
