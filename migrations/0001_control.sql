-- The control schema: what a pipeline knows about itself, in the mirror database, changed in the same transactions as
-- the rows it speaks of.  Every table is keyed by the pipeline's name; several pipelines may share a mirror database.

create table tailwater.pipeline (
    name              text primary key,
    epoch             uuid not null default gen_random_uuid(), -- a new one whenever numbering starts again
    system_identifier text not null,                           -- IDENTIFY_SYSTEM of the source …
    timeline          integer not null,
    database          text not null,                           -- … compared at every start (P31)
    slot              text not null,
    slot_lsn          pg_lsn not null,                         -- the slot's consistent point when it was made
    plugin            text not null,
    publication       text,                                    -- null with wal2json
    state             text not null default 'copying' check (state in ('copying', 'streaming')),
    created_at        timestamptz not null default now()
);

-- The one-row clock of a pipeline: fence, batch number and commit order in one.  The first statement of every batch
-- updates it where cursor is what the writer believes; nobody else's function ever takes this row.
create table tailwater.clock (
    pipeline    text primary key references tailwater.pipeline on delete cascade,
    batch_id    bigint not null default 0,
    cursor      pg_lsn not null,        -- the mirror is complete up to here; a transaction is old when final_lsn < cursor
    commit_time timestamptz,            -- the source's, of the newest transaction applied
    applied_at  timestamptz not null default now()
) with (fillfactor = 10);

create table tailwater.mirror_table (
    pipeline      text not null references tailwater.pipeline on delete cascade,
    schema        text not null,        -- on the source
    name          text not null,
    relid         oid not null,         -- on the source; a new one under an old name is another table (P59)
    mirror_schema text not null,
    mirror_name   text not null,
    view_schema   text not null,
    view_name     text not null,
    key           text[] not null,      -- column names, in order
    -- 'new': nothing is there, and a relation of its name is somebody else's; 'created': the empty (or half copied)
    -- table; 'copied'; 'indexed': key and indexes are there too; 'ready': its live view is there.
    state         text not null default 'new' check (state in ('new', 'created', 'copied', 'indexed', 'ready')),
    copy_lsn      pg_lsn,               -- the consistent point of its copy: changes with final_lsn below are in it
    copied_rows   bigint not null default 0,
    copied_at     timestamptz,
    primary key (pipeline, schema, name),
    unique (mirror_schema, mirror_name),
    unique (view_schema, view_name)
);

-- Schemas and types that were made for a pipeline, so that destroy removes what is ours and nothing else.  A type that
-- two pipelines use has a row for each.
create table tailwater.made_object (
    pipeline text not null references tailwater.pipeline on delete cascade,
    kind     text not null check (kind in ('schema', 'enum', 'composite', 'range')),
    schema   text not null,
    name     text not null default '',  -- '' for a schema
    primary key (pipeline, kind, schema, name)
);

-- Keys of rows that an update could not complete: an unchanged TOAST value whose row is not here (P6).  Written in the
-- batch's transaction, removed by the one that writes the row fetched from the source.
create table tailwater.repair (
    id       bigint generated always as identity primary key,
    pipeline text not null references tailwater.pipeline on delete cascade,
    schema   text not null,
    name     text not null,
    key      text[] not null,           -- the key columns' text values, in the key's order
    lsn      pg_lsn not null,           -- of the transaction that asked
    asked_at timestamptz not null default now()
);
create index on tailwater.repair (pipeline, schema, name);

-- Counters that a restart must not lose, one row each, written by the transactions they count.
create table tailwater.counter (
    pipeline text not null references tailwater.pipeline on delete cascade,
    name     text not null,             -- 'repaired_rows', …
    value    bigint not null default 0,
    primary key (pipeline, name)
);

-- What the running replicator says of itself about once a second, outside the batches, for the status command.
create table tailwater.heartbeat (
    pipeline text primary key references tailwater.pipeline on delete cascade,
    said_at  timestamptz not null default now(),
    pid      integer not null,
    host     text not null,
    version  text not null,
    state    text not null,             -- 'copying', 'streaming', 'waiting for the source', …
    detail   jsonb not null default '{}'
) with (fillfactor = 10);

-- Fails with the SQLSTATE and message given.  The apply statements call it where a row count is not what it has to be, so
-- that the commit can be sent along with them: a refused statement takes the rest of the pipeline with it.
create function tailwater.refuse(state text, reason text) returns bigint language plpgsql as $$
begin
    raise exception using errcode = state, message = reason;
end
$$;
