-- A quarantined table: one whose changes the mirror refused.  They are left out from a source transaction on, so that
-- everything else can go on; the table stays as it was just before that transaction, until a resync ends it.

alter table tailwater.mirror_table
    add quarantine_lsn         pg_lsn,      -- changes of transactions with final_lsn from here on are left out; null: none
    add quarantined_at         timestamptz,
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
