-- Fan-outs: changes of a dimension's row that reach too many facts for the batch's own transaction.  The batch leaves the
-- row's old and new link values here; a background step of the replicator expands them into keys, in lane 1.

-- Who may move the clock: a session puts a token of its own here when it starts, holding the pipeline's lock, and every
-- move compares it.  Others may take numbers (update … set batch_id = batch_id + 1), in transactions that write no mirror
-- table.
alter table tailwater.clock add column writer uuid not null default gen_random_uuid();

create table tailwater.fan_out (
    id         bigint generated always as identity primary key,
    fact       text not null references tailwater.fact on delete cascade,
    generation bigint not null,            -- of another one than the fact's: void
    node       smallint not null,
    batch_id   bigint not null,            -- the first batch that asked
    lsn        pg_lsn not null,            -- the mirror's cursor before that batch
    links      text[] not null,            -- per link column of the node the values, as an array's text; old ones and new ones
    digest     text not null,              -- md5 of links: an equal entry that has not begun stands for later ones
    asked      bigint not null default 1,  -- how often
    begun_at   timestamptz,                -- from then on nothing is merged into it
    position   text[],                     -- the key of the row of its first hop up to which keys are written
    keys       bigint not null default 0,  -- written so far
    asked_at   timestamptz not null default clock_timestamp()
);
create index on tailwater.fan_out (fact, node, digest) where begun_at is null;

-- One value of a key by a query over the text of a row's columns, or TW003 and the fact's name: for finding out whose fault
-- it is when a row is refused.
create function tailwater.guard_key(fact text, query text, columns text[]) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    value text;
begin
    execute query into value using columns;
    return value;
exception when others then
    raise exception using errcode = 'TW003', message = format('fact %s: %s', fact, sqlerrm);
end
$$;

revoke execute on function tailwater.guard_key(text, text, text[]) from public;
