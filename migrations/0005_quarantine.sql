-- A quarantined table: one whose changes the mirror refused.  They are left out from a source transaction on, so that
-- everything else can go on; the table stays as it was just before that transaction, until a resync ends it.

alter table tailwater.mirror_table
    add quarantine_lsn         pg_lsn,      -- changes of transactions with final_lsn from here on are left out; null: none
    add quarantined_at         timestamptz,
    add quarantine_batch       bigint,      -- the mark's own number: what batches below it applied is all there
    add quarantine_xid         bigint,      -- of the transaction that was refused, where it is known
    add quarantine_commit_time timestamptz,
    add quarantine_sqlstate    text,        -- null where no server said one
    add quarantine_reason      text,
    -- Under resync, by this job: tombstones are kept, every change moves _lsn (docs/design.md).
    add resync_job             bigint,
    add resynced_at            timestamptz,
    add resynced_lsn           pg_lsn;      -- the consistent point of the last resync that ended

-- Work that a command asked the running replicator for.
create table tailwater.job (
    id         bigint generated always as identity primary key,
    pipeline   text not null references tailwater.pipeline on delete cascade,
    kind       text not null check (kind in ('resync')),
    state      text not null default 'asked' check (state in ('asked', 'running', 'done', 'failed')),
    asked_at   timestamptz not null default now(),
    started_at timestamptz,
    ended_at   timestamptz
);
create index on tailwater.job (pipeline) where state in ('asked', 'running');

-- Its tables, in the order in which they are worked off.
create table tailwater.job_table (
    job            bigint not null references tailwater.job on delete cascade,
    nr             integer not null,
    schema         text not null,       -- on the source
    name           text not null,
    state          text not null default 'waiting' check (state in ('waiting', 'running', 'done', 'failed')),
    step           text,                -- what it does now, in words
    lsn            pg_lsn,              -- the consistent point of the source's snapshot
    started_at     timestamptz,
    ended_at       timestamptz,
    bytes          bigint,              -- of the source's table, by its size on disk …
    bytes_done     bigint not null default 0,
    rows_read      bigint not null default 0,
    rows_missing   bigint not null default 0,
    rows_different bigint not null default 0,
    rows_extra     bigint not null default 0,
    sqlstate       text,
    error          text,
    hint           text,
    primary key (job, nr)
);

-- Through which batch, and which position of the source, the keys of every change are in each fact's ledger: in lane 0, and
-- the fan-out's included.  Null where no window can be given now.  missing says what lies behind that position: a table on
-- the path is quarantined (its changes give their keys when it is resynced), or rows of it are being fetched for repair.
create function tailwater.ledger_complete(pipeline text)
returns table (fact text, batch_id bigint, lsn pg_lsn, missing text, fan_out_batch bigint, fan_out_lsn pg_lsn,
               fan_outs bigint, fan_out_keys bigint, fan_out_since timestamptz)
language sql stable set search_path = pg_catalog, pg_temp as $$
    select f.name, c.batch_id, c.lsn, h.reason, case when c.batch_id is not null then least(c.batch_id, e.batch_id - 1) end,
           case when c.lsn is not null then least(c.lsn, e.lsn) end, e.n, e.keys, e.since
      from tailwater.fact f
      join tailwater.clock k on k.pipeline = f.pipeline
      cross join lateral (
          select min(held.batch_id), min(held.lsn), string_agg(held.reason, '; ' order by held.reason)
            from (select t.quarantine_batch - 1, t.quarantine_lsn,
                         format('%s.%s is quarantined', t.schema, t.name)
                    from tailwater.mirror_table t
                   where t.pipeline = f.pipeline and t.quarantine_lsn is not null
                     and exists (select from tailwater.fact_node n
                                  where n.fact = f.name and n.schema = t.schema and n.table_name = t.name)
                   union all
                  -- Of the batches the last one that ended before; those that are not recorded wrote no key.
                  select coalesce((select b.batch_id from tailwater.batch b
                                    where b.pipeline = f.pipeline and b.lsn_to <= r.lsn order by b.batch_id desc limit 1), 0),
                         r.lsn, format('%s rows of %s.%s are being fetched', r.n, r.schema, r.name)
                    from (select p.schema, p.name, min(p.lsn) as lsn, count(*) as n from tailwater.repair p
                           where p.pipeline = f.pipeline group by 1, 2) r
                   where exists (select from tailwater.fact_node n
                                  where n.fact = f.name and n.schema = r.schema and n.table_name = r.name)
                 ) held(batch_id, lsn, reason)) h(batch_id, lsn, reason)
      cross join lateral (
          select count(*), coalesce(sum(o.keys), 0)::bigint, min(o.batch_id), min(o.lsn), min(o.asked_at)
            from tailwater.fan_out o where o.fact = f.name and o.generation = f.generation
          ) e(n, keys, batch_id, lsn, since)
      left join lateral (select least(k.batch_id, h.batch_id), least(k.cursor, h.lsn)
                          where tailwater.why_waiting(f) is null) c(batch_id, lsn) on true
     where f.pipeline = $1
$$;

-- The same of one fact and its lane 1, for whoever waits for a fan-out.
create function tailwater.fan_out_complete(fact text, out batch_id bigint, out lsn pg_lsn)
language sql stable set search_path = pg_catalog, pg_temp as $$
    select c.fan_out_batch, c.fan_out_lsn
      from tailwater.fact f cross join lateral tailwater.ledger_complete(f.pipeline) c
     where f.name = $1 and c.fact = f.name
$$;

revoke execute on function tailwater.ledger_complete(text), tailwater.fan_out_complete(text) from public;
