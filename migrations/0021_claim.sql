-- A claim looked through the ledger's newest pages once for each question: is anything pending, is it in this lane, in that
-- one.  Of a window of two thousand keys that was a tenth of the time of its refresh.

-- At least those lanes that have keys up to this batch which the consumer has not been given, in one reading; null where that
-- would be a long one: then each lane is looked at by itself, piece by piece.
create function tailwater.pending_lanes(c tailwater.consumer, pipeline text, up_to bigint) returns smallint[]
language plpgsql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off
set max_parallel_workers_per_gather = 0 as $$
declare
    low bigint := least(c.fresh_done, c.fan_out_done, c.backfill_done);
    is_long boolean;
    lanes smallint[];
begin
    select count(*) >= 1000 or coalesce(sum(b.keys), 0) >= 10000 into is_long
        from (select p.keys from tailwater.batch p
               where p.pipeline = pending_lanes.pipeline and p.batch_id > low and p.batch_id <= up_to limit 1000) b;
    if not is_long then
        execute format('select coalesce(array_agg(distinct l.lane), ''{}'') from tailwater.%I l '
                       'where l.batch_id > $1 and l.batch_id <= $2', 'ledger_' || c.fact)
            into lanes using low, up_to;
    end if;
    return lanes;
end
$$;

-- The consumer's row, moved on in lanes that have nothing: these need not be looked through (tailwater.find_window).
create function tailwater.pass_empty_lanes(c tailwater.consumer, f tailwater.fact) returns tailwater.consumer
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    now_at bigint;
    fan_out_at bigint;
    pending smallint[];
    lane smallint;
begin
    select k.batch_id, tailwater.lane_end(f.pipeline, 1::smallint) into now_at, fan_out_at
        from tailwater.clock k where k.pipeline = f.pipeline;
    pending := tailwater.pending_lanes(c, f.pipeline, now_at);
    foreach lane in array '{0,1,2}'::smallint[] loop
        if lane <> all (pending) then
            c := tailwater.move_lane(c, lane, case lane when 1 then fan_out_at else now_at end);
        end if;
    end loop;
    return c;
end
$$;

-- What a claim does when something is pending.  For whoever has just asked tailwater.is_idle(): where that was wrong, or
-- somebody else came first, there is no row.
create function tailwater.claim_pending(consumer text, fact text, max_keys bigint)
returns table (claim_id uuid, lane smallint, from_batch bigint, to_batch bigint, keys bigint, everything boolean)
language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    c tailwater.consumer := tailwater.lock_consumer(claim_pending.consumer, claim_pending.fact);
    f tailwater.fact := tailwater.find_fact(claim_pending.fact); -- as it is after the wait
begin
    if tailwater.why_waiting(f) is not null then
        return;
    end if;
    if c.claim_id is null or c.claim_generation <> f.generation then
        c := tailwater.open_next(tailwater.pass_empty_lanes(c, f), f, claim_pending.max_keys);
        perform tailwater.store_consumer(c);
    end if;
    if c.claim_id is not null then
        return query select c.claim_id, c.claim_lane, c.claim_from, c.claim_to, c.claim_keys, c.claim_everything;
    end if;
end
$$;

create or replace function tailwater.claim(consumer text, fact text, max_keys bigint default 100000)
returns table (claim_id uuid, lane smallint, from_batch bigint, to_batch bigint, keys bigint, everything boolean)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    perform tailwater.require_read_committed();
    if claim.max_keys is null or claim.max_keys < 1 then
        raise exception using errcode = '22023', message = 'max_keys is less than 1', hint = 'leave it out for 100000';
    end if;
    if not tailwater.is_idle(claim.consumer, tailwater.find_fact(claim.fact)) then
        return query select * from tailwater.claim_pending(claim.consumer, claim.fact, claim.max_keys);
    end if;
end
$$;

revoke execute on function tailwater.pending_lanes(tailwater.consumer, text, bigint),
    tailwater.pass_empty_lanes(tailwater.consumer, tailwater.fact), tailwater.claim_pending(text, text, bigint) from public;
