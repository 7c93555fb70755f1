-- verify: a resync that writes nothing, and says what differs.

alter table tailwater.job
    drop constraint job_kind_check,
    add constraint job_kind_check check (kind in ('resync', 'verify')),
    add is_forced    boolean not null default false,    -- whatever resync.max_delete_fraction says
    add shows_values boolean not null default false;    -- differences carry the rows' values

-- What a verify found, up to some thousand a table.
create table tailwater.job_difference (
    job     bigint not null,
    nr      integer not null,           -- of the table in the job
    id      bigint generated always as identity,
    kind    text not null check (kind in ('missing', 'different', 'extra')),
    key     jsonb not null,             -- {"id": "5"}
    columns jsonb,                      -- ["status"]: those that differ, of a row that both have
    source  jsonb,                      -- {"status": "paid"}; the values only where somebody asked for them
    mirror  jsonb,
    primary key (job, nr, id),
    foreign key (job, nr) references tailwater.job_table on delete cascade
);

alter table tailwater.mirror_table
    add resynced_differences bigint,    -- rows that the last resync wrote
    add verified_at          timestamptz,
    add verified_lsn         pg_lsn,    -- the consistent point of the last verify
    add verified_differences bigint;
