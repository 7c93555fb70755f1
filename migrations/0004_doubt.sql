-- Rows with a null that may be none: wal2json before 2.6 sends NaN and infinities of numbers as null (P7).  Written in
-- the batch's transaction, one row here for many rows of a table; removed once the source was asked about them.
create table tailwater.doubt (
    id       bigint generated always as identity primary key,
    pipeline text not null references tailwater.pipeline on delete cascade,
    schema   text not null,
    name     text not null,
    n        integer not null,          -- how many rows
    keys     text[] not null,           -- their keys' text values: n of the first key column, n of the second, …
    xids     bigint[] not null,         -- the source's transactions that wrote them: until these are visible there, its
                                        -- answer may be about what was before them
    asked_at timestamptz not null default now()
);
create index on tailwater.doubt (pipeline, id);
