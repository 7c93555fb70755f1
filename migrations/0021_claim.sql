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

-- As before (0002_ledger.sql), but for lanes in which nothing is pending.
create or replace function tailwater.open_next(c tailwater.consumer, f tailwater.fact, max_keys bigint) returns tailwater.consumer
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    now_at bigint;
    fan_out_at bigint;
    up_to bigint;
    newest bigint;
    lanes smallint[];
    pending smallint[];
    try smallint;
    done bigint;
    w record;
begin
    c := tailwater.without_window(c);
    select k.batch_id, tailwater.lane_end(f.pipeline, 1::smallint),
           (select max(e.batch_id) from tailwater.everything e where e.fact = f.name and e.generation = f.generation)
        into now_at, fan_out_at, newest
        from tailwater.clock k where k.pipeline = f.pipeline;
    if c.stale_since is not null or c.everything_done is null or c.everything_done < newest then
        -- Whoever rebuilds now needs no key up to now_at, that of a page which is still being written neither: what caused
        -- it is applied.  Until the rebuild is acknowledged it stays owed.
        if c.stale_since is not null then
            c.everything_done := null;
        end if;
        c.stale_since := null;
        c.stale_reason := null;
        c.fresh_done := greatest(c.fresh_done, now_at);
        c.fan_out_done := greatest(c.fan_out_done, now_at);
        c.backfill_done := greatest(c.backfill_done, now_at);
        c.claim_lane := 0;
        c.claim_from := 0;
        c.claim_to := now_at;
        c.claim_everything := true;
    else
        lanes := case c.last_lower when 1 then '{2,1}' else '{1,2}' end;
        lanes := case when c.turn >= 4 then lanes || 0::smallint else 0::smallint || lanes end;
        pending := tailwater.pending_lanes(c, f.pipeline, now_at);
        foreach try in array lanes loop
            done := case try when 0 then c.fresh_done when 1 then c.fan_out_done else c.backfill_done end;
            up_to := case try when 1 then fan_out_at else now_at end;
            if pending is null or try = any (pending) then
                w := tailwater.find_window(f, try, done, up_to, max_keys);
                if w.keys > 0 then
                    c.claim_lane := try;
                    c.claim_from := done + 1;
                    c.claim_to := w.to_batch;
                    c.claim_keys := w.keys;
                    c.claim_everything := false;
                    exit;
                end if;
            end if;
            -- This lane has nothing up to now: it need not be looked through again.
            c := tailwater.move_lane(c, try, up_to);
        end loop;
        if c.claim_to is null then
            return c;
        end if;
        if c.claim_lane = 0 then
            c.turn := least(c.turn + 1, 4);
        else
            c.turn := 0;
            c.last_lower := c.claim_lane;
        end if;
    end if;
    c.claim_id := gen_random_uuid();
    c.claim_generation := f.generation;
    c.claimed_at := clock_timestamp();
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
        c := tailwater.open_next(c, f, claim_pending.max_keys);
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
    tailwater.claim_pending(text, text, bigint) from public;
