-- What errors of the functions for consumers advise: only what works when it is copied.  Otherwise as in 0002_ledger.sql.

create or replace function tailwater.refuse_unknown(consumer text, fact text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    raise exception using errcode = 'TW011',
        message = format('there is no consumer "%s" of fact %s', left(consumer, 63), fact),
        hint = case when consumer ~ '^[A-Za-z0-9_.@:/-]{1,63}$' then format('select tailwater.subscribe(%L, %L)', consumer, fact)
                    else 'a consumer''s name has up to 63 letters, digits, and . _ - : / @' end;
end
$$;

create or replace function tailwater.replay(consumer text, fact text, from_batch bigint) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    f tailwater.fact;
    c tailwater.consumer;
    floor bigint;
    highest bigint;
begin
    perform tailwater.require_read_committed();
    f := tailwater.find_fact(fact);
    c := tailwater.lock_consumer(consumer, fact);
    -- Shared with other consumers; what removes batches raises the floor first, and passes over one that is held.
    select l.kept_from into floor from tailwater.ledger_floor l where l.fact = f.name for share;
    highest := greatest(c.fresh_done, c.fan_out_done, c.backfill_done) + 1;
    if c.stale_since is not null then
        raise exception using errcode = 'TW014',
            message = format('consumer "%s" of fact %s is stale: what it has not read may be gone', consumer, fact),
            hint = format('its next window is everything: select * from tailwater.claim(%L, %L)', consumer, fact);
    end if;
    if from_batch is null or from_batch < floor or from_batch > highest then
        raise exception using errcode = 'TW014',
            message = format('batch %s is not among those that consumer "%s" of fact %s can replay', 
                             coalesce(from_batch::text, 'null'), consumer, fact),
            hint = format('%s unsubscribe, then subscribe(%L, %L, start => ''all'')',
                          case when floor <= highest then format('from batch %s to %s; for what is older:', floor, highest)
                               else 'nothing that it has read is kept any more:' end, consumer, fact);
    end if;
    c := tailwater.without_window(c);
    c.fresh_done := least(c.fresh_done, from_batch - 1);
    c.fan_out_done := least(c.fan_out_done, from_batch - 1);
    c.backfill_done := least(c.backfill_done, from_batch - 1);
    if c.everything_done is not null then -- null: a rebuild is owed anyway
        c.everything_done := least(c.everything_done, from_batch - 1);
    end if;
    perform tailwater.store_consumer(c);
end
$$;

create or replace function tailwater.grant_consumer(role text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    name text;
begin
    if role is null or not exists (select from pg_roles r where r.rolname = role) then
        raise exception using errcode = '42704', message = format('there is no role "%s"', coalesce(left(role, 63), 'null')),
            hint = case when role = 'public' then 'name the roles one by one: not everybody may consume'
                        when coalesce(role, '') in ('', 'none') or role like 'pg\_%' then 'name a role that there is'
                        else format('create role %I login', left(role, 63)) end;
    end if;
    revoke execute on all functions in schema tailwater from public;
    execute format('grant usage on schema tailwater to %I', role);
    for name in select tailwater.consumer_functions() loop
        execute format('grant execute on function %s to %I', name, role);
    end loop;
end
$$;
