-- A derived table whose rebuild ("everything") was cancelled, or failed in some chunk, is not whole.  It says so, and is built
-- anew when somebody opens it next: a refresh by hand, or the start of a replicator.

-- It is, once all of it has been computed since.
create function tailwater.is_whole(of_fact text) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
    select not exists (
        select from tailwater.backfill e
         where e.fact = $1 and e.kind = 'everything' and e.state in ('cancelled', 'failed')
           and not exists (
               select from tailwater.backfill b
                where b.fact = $1 and b.id > e.id
                  and (b.kind = 'everything' and b.state in ('running', 'paused', 'done')
                       or b.state = 'done'
                          and (b.kind = 'full'
                               or b.kind = 'backfill' and b.predicate is null
                                  and exists (select from tailwater.backfill_chunk c where c.backfill = b.id and c.low is null)
                                  and exists (select from tailwater.backfill_chunk c where c.backfill = b.id and c.high is null)))))
$$;

-- For the ledger command: how the derived table of each fact is.
create or replace function tailwater.refresh_states(pipeline text)
returns table (fact text, "into" text, state text, refreshed_at timestamptz, windows bigint, keys bigint,
               rows_inserted bigint, rows_updated bigint, rows_deleted bigint, failing_since timestamptz, error text,
               failed_keys bigint, parked_keys bigint, failure_key text[], failure_sqlstate text, failure_error text,
               backfill bigint, backfill_kind text, backfill_state text, chunks bigint, chunks_done bigint,
               eta interval)
language sql stable set search_path = pg_catalog, pg_temp as $$
    select r.fact, format('%s.%s', r.into_schema, r.into_name),
           case when r.failing_since is not null then 'failing'
                when b.kind = 'everything' then 'building'
                when not tailwater.is_whole(r.fact) then 'incomplete'
                when b.id is not null then 'backfill'
                when p.failed > 0 then 'failed keys' else 'ok' end,
           r.refreshed_at, r.windows, r.keys, r.rows_inserted, r.rows_updated, r.rows_deleted, r.failing_since, r.error,
           p.failed, p.parked, s.key, s.sqlstate, s.error,
           b.id, b.kind, b.state, h.n, h.done,
           case when h.done > 0 and b.state = 'running'
                then (clock_timestamp() - h.began) / h.done * (h.n - h.done) end
      from tailwater.refresh r
      join tailwater.fact f on f.name = r.fact
      cross join lateral (select count(*) filter (where e.next_at is not null) as waiting, count(*) as failed,
                                 count(*) filter (where e.next_at is null) as parked
                            from tailwater.refresh_failure e where e.fact = r.fact) p
      left join lateral (select e.key, e.sqlstate, e.error from tailwater.refresh_failure e
                          where e.fact = r.fact order by e.next_at is not null, e.failed_at desc, e.key limit 1) s on true
      left join lateral (select o.id, o.kind, o.state from tailwater.backfill o
                          where o.fact = r.fact and o.state in ('running', 'paused')
                          order by o.id is distinct from r.current_backfill, o.id limit 1) b on true
      left join lateral (select count(*) as n, count(*) filter (where c.state = 'done') as done,
                                min(c.started_at) as began
                           from tailwater.backfill_chunk c where c.backfill = b.id) h on true
     where f.pipeline = $1
     order by r.fact
$$;

revoke execute on all functions in schema tailwater from public;
