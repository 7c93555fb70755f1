-- What 0025 left to "the next start" was not done by any: the replicator asked for it only where a fact was new or changed.  Now
-- each start does.  Beside readers of several ledgers, who take them in another order, that may end in a deadlock as well: as
-- good a reason to leave it to the next.
create or replace function tailwater.add_key_arrays(fact text) returns void
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
        exception when lock_not_available or deadlock_detected then
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

-- How many keys fan-outs have brought since a batch (tailwater.exceeds), without reading all batches since then: there may be
-- millions, and few are of a fan-out.
create index batch_fan_out on tailwater.batch (pipeline, batch_id) include (keys) where kind = 'fan-out';
