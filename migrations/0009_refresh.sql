-- Derived tables: what keeps them, which keys could not be recomputed, and the histories that are computed again.
--
-- Two advisory locks, in the space of two integers:
--   (1416118883, oid of the derived table)  its target lock: a refresh holds it alone, chunks of a backfill share it
--   (1416118884 + slot, id of a backfill)   one of a backfill's slots: so many chunks of it are worked on at once
-- Order: slot, target, the consumer's row or the chunk's, the clock.

create table tailwater.refresh (
    fact             text primary key references tailwater.fact on delete cascade,
    into_schema      text not null,
    into_name        text not null,
    into_oid         oid not null,               -- another one under that name is another table: it is built anew
    definition_hash  text not null,              -- of query, key and unique: a change means a rebuild
    key_columns      text[] not null,            -- of the derived table, in the order of the fact's key
    current_backfill bigint,                     -- the one whose chunks may be worked on; moved under the target lock alone
    refreshed_at     timestamptz,
    windows          bigint not null default 0,
    keys             bigint not null default 0,  -- recomputed, by windows
    rows_inserted    bigint not null default 0,
    rows_updated     bigint not null default 0,
    rows_deleted     bigint not null default 0,
    failing_since    timestamptz,                -- the whole refresh, not one of its keys
    failures         integer not null default 0, -- in a row
    sqlstate         text,
    error            text,
    unique (into_schema, into_name)
) with (fillfactor = 50);

-- Keys whose recomputation failed.  They are no longer pending in the ledger: here is where they wait.
create table tailwater.refresh_failure (
    fact            text not null references tailwater.refresh on delete cascade,
    key             text[] not null,
    attempts        integer not null default 1,
    first_failed_at timestamptz not null default now(),
    failed_at       timestamptz not null default now(),
    next_at         timestamptz,                 -- null: parked, until a change gives the key again
    sqlstate        text,
    error           text not null,
    primary key (fact, key)
);

create table tailwater.backfill (
    id         bigint generated always as identity primary key,
    fact       text not null references tailwater.fact on delete cascade,
    generation bigint not null,                  -- of another one than the fact's: void
    kind       text not null check (kind in ('backfill', 'everything', 'full', 'verify', 'keys')),
    reason     text not null,                    -- in words: what was asked for
    predicate  text,                             -- --where: over the fact's table, by its name in the fact
    state      text not null default 'running' check (state in ('running', 'paused', 'done', 'cancelled', 'failed')),
    parallel   integer not null check (parallel between 1 and 64),
    share      integer not null default 100 check (share between 1 and 100), -- percent of the time
    asked_at   timestamptz not null default clock_timestamp(),
    ended_at   timestamptz
);
create index on tailwater.backfill (fact) where state in ('running', 'paused');

-- Ranges of keys, disjoint: from low on, and below high; null: without a limit.
create table tailwater.backfill_chunk (
    backfill   bigint not null references tailwater.backfill on delete cascade,
    nr         integer not null,
    low        text[],
    high       text[],
    state      text not null default 'waiting' check (state in ('waiting', 'done', 'failed')),
    attempts   integer not null default 0,
    next_at    timestamptz,                      -- after a failure
    started_at timestamptz,
    ended_at   timestamptz,
    keys       bigint not null default 0,        -- those looked at, where they were counted
    inserted   bigint not null default 0,        -- rows; of a verification: those that it would insert, …
    updated    bigint not null default 0,
    deleted    bigint not null default 0,
    drift      bigint,                           -- full, verify: keys that differed, and were not pending
    pending    bigint,                           -- … and those that were
    sample     text,                             -- one of the keys that differed
    sqlstate   text,
    error      text,
    primary key (backfill, nr)
) with (fillfactor = 70);

-- A free slot of a backfill, held until the transaction ends; null: all are taken.
create function tailwater.take_backfill_slot(backfill bigint, parallel integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    for slot in 1 .. parallel loop
        if pg_try_advisory_xact_lock(1416118884 + slot, (backfill % 2147483647)::integer) then
            return slot;
        end if;
    end loop;
    return null;
end
$$;

-- Notes failures of keys that were recomputed in this transaction.  A retry goes on counting; a failure after a change begins
-- again.
create function tailwater.note_failure(fact text, key text[], is_retry boolean, max_attempts integer, sqlstate text,
                                       error text) returns void
language sql set search_path = pg_catalog, pg_temp as $$
    insert into tailwater.refresh_failure as f (fact, key, attempts, next_at, sqlstate, error)
        values ($1, $2, 1, case when $4 > 1 then clock_timestamp() + interval '5 s' end, $5, $6)
    on conflict on constraint refresh_failure_pkey do update
       set attempts = case when $3 then f.attempts + 1 else 1 end, failed_at = now(), sqlstate = $5, error = $6,
           next_at = case when (case when $3 then f.attempts + 1 else 1 end) < $4
                          then clock_timestamp()
                               + least(interval '5 s' * power(2, case when $3 then f.attempts else 0 end), interval '1 h') end
$$;

-- For the ledger command: how the derived table of each fact is.
create function tailwater.refresh_states(pipeline text)
returns table (fact text, "into" text, state text, refreshed_at timestamptz, windows bigint, keys bigint,
               rows_inserted bigint, rows_updated bigint, rows_deleted bigint, failing_since timestamptz, error text,
               failed_keys bigint, parked_keys bigint, failure_key text[], failure_sqlstate text, failure_error text,
               backfill bigint, backfill_kind text, backfill_state text, chunks bigint, chunks_done bigint,
               eta interval)
language sql stable set search_path = pg_catalog, pg_temp as $$
    select r.fact, format('%s.%s', r.into_schema, r.into_name),
           case when r.failing_since is not null then 'failing'
                when b.kind = 'everything' then 'building'
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
