-- The ledger: which keys of which fact are affected by what was applied, and who has read how far.
--
-- Numbers come from the pipeline's clock.  A writer moves the clock in the transaction that writes, and holds that row
-- until its commit: so the order of numbers is the order of commits, and whoever sees number N sees everything up to N.
-- All readers here rest on that; nobody who reads ever takes the clock's row.
--
-- One writer is excepted, since it writes so much: the expander announces a number before it writes a page of the fan-out
-- lane under it (tailwater.announce_page), and that lane is read up to the announced number, not further (lane_end).
--
-- Order of locks, for everybody: the target of a refresh, the consumer's row, the clock.  The applier takes no row of a
-- consumer, so it never waits for a refresh in flight.
--
-- SQLSTATEs of the functions for consumers, each with a hint:
--   TW010 the isolation level is not READ COMMITTED      TW011 there is no such fact or consumer
--   TW012 the window is not the open one                 TW013 the window is "everything": it has no list of keys
--   TW014 outside of what is kept                        22023 an argument that makes no sense

-- ---- facts: written by the replicator when it starts, from the configuration ----

create table tailwater.fact (
    name            text primary key check (name ~ '^[a-z_][a-z0-9_]*$' and octet_length(name) <= 40),
    pipeline        text not null references tailwater.pipeline on delete cascade,
    schema          text not null,               -- of the fact's table on the source …
    table_name      text not null,
    key_names       text[] not null check (cardinality(key_names) > 0),
    key_types       text[] not null check (cardinality(key_types) = cardinality(key_names)),
    definition      jsonb not null,
    definition_hash text not null,
    generation      bigint not null default 1,   -- one more with every changed definition: open windows of an earlier one are void
    suspended       text,                        -- why no key is given at present; "everything" is said once that is mended
    created_at      timestamptz not null default now()
);

create table tailwater.fact_node (
    fact           text not null references tailwater.fact on delete cascade,
    node           smallint not null,            -- 0: the fact's own table; then in the declaration's order
    name           text not null,                -- alias or table
    schema         text not null,
    table_name     text not null,
    parent         smallint,                     -- the node that it is joined to, one nearer to the fact; null for node 0
    path           text,                         -- 'customers.id = orders.customer_id'
    columns        text[],                       -- the same in pieces: of this node's table …
    parent_columns text[],                       -- … and of the parent's, pair by pair
    primary key (fact, node)
);

-- A batch that wrote a ledger key, a deferred entry or an "everything" row.  No foreign key: it is written with every batch.
create table tailwater.batch (
    pipeline    text not null,
    batch_id    bigint not null,
    kind        text not null check (kind in ('stream', 'repair', 'resync', 'fan-out', 'backfill', 'manual')),
    lsn_from    pg_lsn,
    lsn_to      pg_lsn,
    commit_time timestamptz,                     -- the source's, of the newest transaction in it
    applied_at  timestamptz not null default clock_timestamp(),
    changes     bigint,
    keys        bigint,                          -- rows written to ledger tables, of all facts
    primary key (pipeline, batch_id)
);

-- The number under which the expander is about to write a page of lane 1; null: none.  Of several that were announced only
-- the last can be finished.
create table tailwater.fan_out_page (
    pipeline     text primary key references tailwater.pipeline on delete cascade,
    batch_id     bigint,
    announced_at timestamptz
) with (fillfactor = 20);

-- "Rebuild all of it": after a truncate, for a new or changed definition, when the copy of a table on a path is complete.
-- Append-only; batch_id is a number taken in the same transaction.  A consumer owes it while its everything_done is below
-- the newest row of the fact's generation.
create table tailwater.everything (
    fact       text not null references tailwater.fact on delete cascade,
    generation bigint not null,
    batch_id   bigint not null,
    reason     text not null,
    said_at    timestamptz not null default clock_timestamp()
);
create index on tailwater.everything (fact, generation, batch_id);

-- Batches below kept_from may be gone from the fact's ledger.  Raised before anything is removed.
create table tailwater.ledger_floor (
    fact       text primary key references tailwater.fact on delete cascade,
    kept_from  bigint not null,
    kept_since timestamptz not null default '-infinity' -- what was applied from then on is kept
) with (fillfactor = 50);

create table tailwater.consumer (
    name             text not null,
    fact             text not null references tailwater.fact on delete cascade,
    created_at       timestamptz not null default clock_timestamp(),
    fresh_done       bigint not null,            -- everything of this lane up to here is acknowledged, or not owed
    fan_out_done     bigint not null,
    backfill_done    bigint not null,
    everything_done  bigint,                     -- rebuilt as of this batch; null: a rebuild is owed
    turn             smallint not null default 0, -- fresh windows given since the last of a lower lane
    last_lower       smallint not null default 2, -- the lower lane that had the last turn
    -- the open window; claim_id null: there is none
    claim_id         uuid,
    claim_generation bigint,
    claim_lane       smallint,
    claim_from       bigint,
    claim_to         bigint,
    claim_keys       bigint,
    claim_everything boolean,
    claimed_at       timestamptz,
    acked_at         timestamptz,
    advanced_at      timestamptz not null default clock_timestamp(),
    stale_since      timestamptz,                -- pins nothing any more, and owes a rebuild
    stale_reason     text,
    primary key (name, fact)
) with (fillfactor = 20);

-- What each dimension causes, by the hour.
create table tailwater.dimension_statistic (
    fact          text not null references tailwater.fact on delete cascade,
    node          smallint not null,
    hour          timestamptz not null,
    rows_changed  bigint not null default 0,     -- rows of the node's table that appeared, vanished or differ in a watched column
    keys_written  bigint not null default 0,     -- ledger rows because of them
    deferred      bigint not null default 0,     -- of the changed rows, those whose keys were left to the fan-out
    null_keys     bigint not null default 0,     -- keys left out because a part of them is NULL
    distinct_keys bigint,                        -- keys of the hour, each once; null until the hour is over, or where it cannot be known
    is_closed     boolean not null default false,
    primary key (fact, node, hour)
);

-- ---- numbers ----

-- The next number, for this transaction, which holds the clock until it ends; also put into the transaction's setting
-- tailwater.batch.  Take it last, briefly.
create function tailwater.next_batch(pipeline text) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    number bigint;
begin
    update tailwater.clock k set batch_id = k.batch_id + 1 where k.pipeline = next_batch.pipeline
        returning k.batch_id into number;
    if number is null then
        raise exception using errcode = 'TW011', message = format('there is no pipeline %s', pipeline),
            hint = 'select name from tailwater.pipeline';
    end if;
    perform set_config('tailwater.batch', number::text, true);
    return number;
end
$$;

-- The next number, for a page of the fan-out lane that another transaction will write: in a transaction of its own, so that
-- nobody waits for the clock while keys are written.
create function tailwater.announce_page(pipeline text) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    number bigint := tailwater.next_batch(pipeline);
begin
    insert into tailwater.fan_out_page as p (pipeline, batch_id, announced_at)
        values (announce_page.pipeline, number, clock_timestamp())
        on conflict on constraint fan_out_page_pkey do update
           set batch_id = excluded.batch_id, announced_at = excluded.announced_at;
    return number;
end
$$;

-- The page is written, by this transaction.  Fails where the announcement no longer stands: readers may be past the number.
-- Dated when it was announced, so that the order of batches is the order of time.
create function tailwater.finish_page(pipeline text, number bigint, keys bigint) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    announced timestamptz;
begin
    update tailwater.fan_out_page p set batch_id = null where p.pipeline = finish_page.pipeline and p.batch_id = number
        returning p.announced_at into announced;
    if announced is null then
        raise exception using errcode = 'TW001',
            message = format('page %s of the fan-out lane is no longer announced: another instance expands', number),
            hint = 'nothing is lost: the page is written again, under another number';
    end if;
    insert into tailwater.batch (pipeline, batch_id, kind, lsn_from, lsn_to, applied_at, changes, keys)
        select finish_page.pipeline, number, 'fan-out', k.cursor, k.cursor, announced, 0, finish_page.keys
          from tailwater.clock k where k.pipeline = finish_page.pipeline;
end
$$;

-- What was announced and not finished will not be: its writer is gone, or fails.
create function tailwater.withdraw_page(pipeline text) returns void
language sql set search_path = pg_catalog, pg_temp as $$
    update tailwater.fan_out_page p set batch_id = null where p.pipeline = withdraw_page.pipeline and p.batch_id is not null
$$;

-- Up to where a lane can be read: the clock, and below what is announced for it.  One snapshot for both, or a page that is
-- announced and finished between two looks would be passed over.
create function tailwater.lane_end(pipeline text, lane smallint) returns bigint
language sql stable set search_path = pg_catalog, pg_temp as $$
    select least(k.batch_id, case when $2 = 1 then p.batch_id - 1 end)
      from tailwater.clock k left join tailwater.fan_out_page p on p.pipeline = k.pipeline
     where k.pipeline = $1
$$;

-- The greatest number up to which all that wrote a key was applied by then.  By halving: the numbers are in the order of
-- time.
create function tailwater.batch_at(pipeline text, moment timestamptz) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    low bigint;
    high bigint;
    middle bigint;
    probe record;
    now_at bigint;
begin
    -- The clock first: what is recorded after this look has a higher number.
    select k.batch_id into now_at from tailwater.clock k where k.pipeline = batch_at.pipeline;
    select b.batch_id, b.applied_at into probe from tailwater.batch b where b.pipeline = batch_at.pipeline
        order by b.batch_id limit 1;
    if probe is null then
        return now_at;
    elsif probe.applied_at > moment then
        return probe.batch_id - 1;
    end if;
    low := probe.batch_id;
    select max(b.batch_id) into high from tailwater.batch b where b.pipeline = batch_at.pipeline;
    while low < high loop
        middle := low + (high - low + 1) / 2;
        select b.batch_id, b.applied_at into probe from tailwater.batch b
            where b.pipeline = batch_at.pipeline and b.batch_id >= middle order by b.batch_id limit 1;
        if probe.applied_at <= moment then
            low := probe.batch_id;
        else
            high := middle - 1;
        end if;
    end loop;
    select min(b.batch_id) - 1 into high from tailwater.batch b
        where b.pipeline = batch_at.pipeline and b.batch_id > low;
    return coalesce(high, greatest(low, now_at));
end
$$;

-- ---- ledger tables and their partitions ----

-- In the functions that look for what lies past a batch, sequential scans are off: the planner would take one where it
-- expects many rows, and read an hour's keys to find that there is nothing new.  So are what costs more than such a look:
-- compiling it, and starting workers for it.

-- A ledger table's partitions by batch number; those that are detached, and so about to be dropped, without bounds.
-- ("$" stands in no fact's name: a partition is never taken for another fact's table.)
create function tailwater.ledger_partitions(fact text)
returns table (name text, lower bigint, upper bigint, is_attached boolean, is_pending boolean)
language sql stable set search_path = pg_catalog, pg_temp as $$
    select c.relname::text, b.bounds[1]::bigint, b.bounds[2]::bigint, i.inhrelid is not null,
           coalesce(i.inhdetachpending, false)
      from pg_class c
      left join pg_inherits i on i.inhrelid = c.oid
      left join lateral regexp_match(pg_get_expr(c.relpartbound, c.oid),
                                     'FROM \(''(\d+)''\) TO \(''(\d+)''\)') b(bounds) on true
     where c.relnamespace = 'tailwater'::regnamespace and c.relkind = 'r'
       and c.relname > ('ledger_' || $1 || '$')::name and c.relname < ('ledger_' || $1 || '%')::name
     order by b.bounds[1]::bigint nulls first, c.relname
$$;

-- How many numbers the next partition takes: about an hour's, or 20 million keys', judged by the partition that is being
-- written; between a thousand and ten million.  A fixed number would be a partition a second for one source and a year of
-- keys for another; an hour means some thirty partitions under a replay window of a day.
create function tailwater.partition_width(pipeline text, lower bigint) returns bigint
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    oldest record;
    newest record;
    seconds double precision;
    numbers double precision;
    width double precision;
begin
    select b.batch_id, b.applied_at into oldest from tailwater.batch b
        where b.pipeline = partition_width.pipeline and b.batch_id >= partition_width.lower order by b.batch_id limit 1;
    select b.batch_id, b.applied_at into newest from tailwater.batch b
        where b.pipeline = partition_width.pipeline order by b.batch_id desc limit 1;
    if oldest is null or newest.batch_id <= oldest.batch_id then
        return 10000;
    end if;
    numbers := newest.batch_id - oldest.batch_id;
    seconds := greatest(extract(epoch from newest.applied_at - oldest.applied_at), 0.1);
    width := numbers / seconds * 3600;
    -- Keys a batch, from the newest thousand of them.
    select least(width, 20000000 / greatest(avg(coalesce(s.keys, 0)), 1)) into width
        from (select b.keys from tailwater.batch b where b.pipeline = partition_width.pipeline
               order by b.batch_id desc limit 1000) s;
    return least(greatest(ceil(width), 1000), 10000000)::bigint;
end
$$;

-- Sees to it that two partitions, and 5000 numbers, lie ahead of the clock, for every fact of the pipeline.  Returns how
-- many were made.  Waits for no reader and no writer: a table like the others is created and then attached.
create function tailwater.add_partitions(pipeline text) returns integer
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    f record;
    made integer := 0;
    now_at bigint;
    top bigint;
    ahead integer;
    current_lower bigint;
    width bigint;
    is_locked boolean;
begin
    for f in select a.name, format('ledger_%s', a.name) as ledger from tailwater.fact a
              where a.pipeline = add_partitions.pipeline order by a.name loop
        if to_regclass(format('tailwater.%I', f.ledger)) is null then
            continue;
        end if;
        is_locked := false;
        loop
            select k.batch_id into now_at from tailwater.clock k where k.pipeline = add_partitions.pipeline;
            select max(p.upper), count(*) filter (where p.lower > now_at), max(p.lower) filter (where p.lower <= now_at)
                into top, ahead, current_lower
                from tailwater.ledger_partitions(f.name) p where p.is_attached;
            exit when ahead >= 2 and top > now_at + 5000;
            if not is_locked then
                -- Attaching takes this lock anyway.  Held from here on, two who come together do not make the same.
                execute format('lock table tailwater.%I in share update exclusive mode', f.ledger);
                is_locked := true;
                continue;
            end if;
            top := greatest(coalesce(top, now_at), 0);
            width := tailwater.partition_width(add_partitions.pipeline, coalesce(current_lower, top));
            execute format('create table tailwater.%I (like tailwater.%I)', f.ledger || '$' || top, f.ledger);
            execute format('alter table tailwater.%I attach partition tailwater.%I for values from (%s) to (%s)',
                           f.ledger, f.ledger || '$' || top, top, top + width);
            made := made + 1;
        end loop;
    end loop;
    return made;
end
$$;

-- The ledger table of a fact, its first partitions, and keys_<fact>() for its consumers.  Where they are there already and
-- the key is the same, nothing changes; a ledger with another key is made anew (its keys are void: a new generation).
create function tailwater.make_ledger(fact text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    f tailwater.fact;
    ledger text;
    columns text; -- "id" bigint, "day" date
    names text;   -- l."id", l."day"
    is_same boolean;
    grantee text;
begin
    select * into strict f from tailwater.fact a where a.name = make_ledger.fact;
    ledger := 'ledger_' || f.name;
    if f.key_names && array['batch_id', 'lane', 'node'] then
        raise exception using errcode = '22023',
            message = format('a key column of fact %s is named batch_id, lane or node', f.name),
            hint = 'these are columns of every ledger: name the key column otherwise';
    end if;
    -- Without a length or scale: the values have theirs.
    select string_agg(format('%I %s', k.name, format_type(k.type::regtype, -1)), ', ' order by k.i),
           string_agg(format('l.%I', k.name), ', ' order by k.i)
        into columns, names
        from unnest(f.key_names, f.key_types) with ordinality k(name, type, i);
    if to_regclass(format('tailwater.%I', ledger)) is not null then
        select coalesce(string_agg(format('%I %s', a.attname, format_type(a.atttypid, -1)), ', ' order by a.attnum), '')
               = columns into is_same
            from pg_attribute a
            where a.attrelid = format('tailwater.%I', ledger)::regclass and a.attnum > 3 and not a.attisdropped;
        if is_same then
            perform tailwater.add_partitions(f.pipeline);
            return;
        end if;
        perform tailwater.drop_ledger(f.name);
    end if;
    execute format('create table tailwater.%I (batch_id bigint not null, lane smallint not null, node smallint not null, %s) '
                   'partition by range (batch_id)', ledger, columns);
    execute format('create index on tailwater.%I using brin (batch_id) with (pages_per_range = 32, autosummarize = on)',
                   ledger);
    insert into tailwater.ledger_floor (fact, kept_from)
        select f.name, k.batch_id from tailwater.clock k where k.pipeline = f.pipeline
        on conflict on constraint ledger_floor_pkey do update
           set kept_from = excluded.kept_from, kept_since = clock_timestamp();
    perform tailwater.add_partitions(f.pipeline);
    -- Stable, and so under the snapshot of the statement that calls it: a window that the same statement claims is not
    -- there yet.  What that statement reads would be older than the window.
    execute format($f$
        create function tailwater.%I(text) returns table (%s)
        language plpgsql stable security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off
set max_parallel_workers_per_gather = 0 as $body$
        #variable_conflict use_column
        declare
            tailwater_window tailwater.consumer;
        begin
            tailwater_window := tailwater.open_window($1, %L);
            return query select distinct %s from tailwater.%I l
                where l.batch_id between tailwater_window.claim_from and tailwater_window.claim_to
                  and l.lane = tailwater_window.claim_lane;
        end
        $body$ $f$, 'keys_' || f.name, columns, f.name, names, ledger);
    execute format('revoke all on function tailwater.%I(text) from public', 'keys_' || f.name);
    for grantee in select r.name from tailwater.consumer_roles() r(name) loop
        execute format('grant execute on function tailwater.%I(text) to %I', 'keys_' || f.name, grantee);
    end loop;
end
$$;

create function tailwater.drop_ledger(fact text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    part text;
begin
    execute format('drop function if exists tailwater.%I(text)', 'keys_' || fact);
    execute format('drop table if exists tailwater.%I', 'ledger_' || fact);
    for part in select p.name from tailwater.ledger_partitions(fact) p loop
        execute format('drop table tailwater.%I', part); -- detached, and not yet dropped
    end loop;
end
$$;

-- The fact with its ledger, its consumers and its statistics; false where there is none.
create function tailwater.drop_fact(name text) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    fact text;
begin
    select f.name into fact from tailwater.fact f where f.name = drop_fact.name for update;
    if fact is null then
        return false;
    end if;
    perform tailwater.drop_ledger(fact);
    delete from tailwater.fact f where f.name = fact;
    return true;
end
$$;

-- ---- what the functions for consumers share; nobody else is granted these ----

create function tailwater.require_read_committed() returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception using errcode = 'TW010',
            message = format('the ledger cannot be consumed in a transaction that is %s',
                             upper(current_setting('transaction_isolation'))),
            detail = 'Its snapshot may be older than the window: what is recomputed under it would miss changes.',
            hint = 'begin isolation level read committed';
    end if;
end
$$;

create function tailwater.find_fact(fact text) returns tailwater.fact
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    f tailwater.fact;
begin
    select * into f from tailwater.fact a where a.name = find_fact.fact;
    if f.name is null then
        raise exception using errcode = 'TW011', message = format('there is no fact "%s"', left(fact, 63)),
            hint = coalesce((select 'the facts are: ' || string_agg(a.name, ', ' order by a.name) from tailwater.fact a),
                            'none is declared: write facts: into the configuration, then tailwater run');
    end if;
    return f;
end
$$;

create function tailwater.refuse_unknown(consumer text, fact text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    raise exception using errcode = 'TW011',
        message = format('there is no consumer "%s" of fact %s', left(consumer, 63), fact),
        hint = format('select tailwater.subscribe(%L, %L)', left(consumer, 63), fact);
end
$$;

-- Why no window can be given now; null where one can.
create function tailwater.why_waiting(f tailwater.fact) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
    select coalesce('suspended: ' || f.suspended,
        (select 'not ready: ' || string_agg(distinct format('%s.%s', n.schema, n.table_name), ', ')
           from tailwater.fact_node n
           left join tailwater.mirror_table t
             on t.pipeline = f.pipeline and t.schema = n.schema and t.name = n.table_name
          where n.fact = f.name and t.state is distinct from 'ready'))
$$;

-- What the row of a consumer looks like without its window.
create function tailwater.without_window(c tailwater.consumer) returns tailwater.consumer
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    c.claim_id := null;
    c.claim_generation := null;
    c.claim_lane := null;
    c.claim_from := null;
    c.claim_to := null;
    c.claim_keys := null;
    c.claim_everything := null;
    c.claimed_at := null;
    return c;
end
$$;

create function tailwater.store_consumer(c tailwater.consumer) returns void
language sql set search_path = pg_catalog, pg_temp as $$
    update tailwater.consumer k
       set (fresh_done, fan_out_done, backfill_done, everything_done, turn, last_lower, claim_id, claim_generation,
            claim_lane, claim_from, claim_to, claim_keys, claim_everything, claimed_at, acked_at, advanced_at,
            stale_since, stale_reason)
         = (c.fresh_done, c.fan_out_done, c.backfill_done, c.everything_done, c.turn, c.last_lower, c.claim_id,
            c.claim_generation, c.claim_lane, c.claim_from, c.claim_to, c.claim_keys, c.claim_everything, c.claimed_at,
            c.acked_at, c.advanced_at, c.stale_since, c.stale_reason)
     where k.name = c.name and k.fact = c.fact
$$;

-- The consumer's row, locked until the transaction ends.
create function tailwater.lock_consumer(consumer text, fact text) returns tailwater.consumer
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    c tailwater.consumer;
begin
    select * into c from tailwater.consumer k
        where k.name = lock_consumer.consumer and k.fact = lock_consumer.fact for update;
    if c.name is null then
        perform tailwater.refuse_unknown(consumer, fact);
    end if;
    return c;
end
$$;

-- Locked, and its open window is the one that the caller means.
create function tailwater.lock_window(consumer text, fact text, claim_id uuid) returns tailwater.consumer
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    c tailwater.consumer := tailwater.lock_consumer(consumer, fact);
    f tailwater.fact := tailwater.find_fact(fact);
    reason text;
begin
    if c.claim_id is null and c.stale_since is not null then
        reason := format('it went stale on %s (%s), which ended its window', c.stale_since::timestamptz(0), c.stale_reason);
    elsif c.claim_id is null then
        reason := 'it has no open window: that one was acknowledged, released or replayed';
    elsif c.claim_id is distinct from lock_window.claim_id then
        reason := 'its open window is another one by now';
    elsif c.claim_generation <> f.generation then
        reason := 'the definition of the fact has changed since, which voids the window';
    else
        return c;
    end if;
    raise exception using errcode = 'TW012',
        message = format('%s is not the open window of consumer "%s" of fact %s: %s',
                         coalesce(claim_id::text, 'null'), consumer, fact, reason),
        hint = format('undo what was done for it (roll back), then: select * from tailwater.claim(%L, %L)', consumer, fact);
end
$$;

-- The window that keys_<fact>() reads.
create function tailwater.open_window(consumer text, fact text) returns tailwater.consumer
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    c tailwater.consumer;
    f tailwater.fact;
begin
    perform tailwater.require_read_committed();
    f := tailwater.find_fact(fact);
    select * into c from tailwater.consumer k where k.name = open_window.consumer and k.fact = open_window.fact;
    if c.name is null then
        perform tailwater.refuse_unknown(consumer, fact);
    end if;
    if c.claim_id is null or c.claim_generation <> f.generation then
        raise exception using errcode = 'TW012',
            message = format('consumer "%s" of fact %s has no open window', consumer, fact),
            hint = format('in a statement of its own, before this one: select * from tailwater.claim(%L, %L)', consumer, fact);
    end if;
    if c.claim_everything then
        raise exception using errcode = 'TW013',
            message = format('the open window of consumer "%s" of fact %s is everything: there is no list of keys', consumer, fact),
            hint = 'rebuild all of it, removing what is gone, then tailwater.ack()';
    end if;
    return c;
end
$$;

-- Is there a key that the consumer has not been given, up to this batch?
create function tailwater.has_pending(c tailwater.consumer, up_to bigint) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off
set max_parallel_workers_per_gather = 0 as $$
declare
    found_one boolean;
begin
    execute format('select exists (select from tailwater.%I l where l.batch_id > $1 and l.batch_id <= $2 and '
                   '(l.lane = 0 and l.batch_id > $3 or l.lane = 1 and l.batch_id > $4 or l.lane = 2 and l.batch_id > $5))',
                   'ledger_' || c.fact)
        into found_one
        using least(c.fresh_done, c.fan_out_done, c.backfill_done), up_to, c.fresh_done, c.fan_out_done, c.backfill_done;
    return found_one;
end
$$;

-- As many whole batches of a lane, after done and up to up_to, as hold max_keys ledger rows together; at least one that
-- has any.  keys 0: there is nothing.  The ledger is read piece by piece, so that a long backlog is not counted whole.
create function tailwater.find_window(f tailwater.fact, lane smallint, done bigint, up_to bigint, max_keys bigint,
                                      out to_batch bigint, out keys bigint)
language plpgsql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off
set max_parallel_workers_per_gather = 0 as $$
declare
    low bigint := done;
    high bigint;
    b record;
begin
    keys := 0;
    to_batch := up_to;
    while low < up_to loop
        -- A piece ends where all facts together have max_keys, or ten thousand, or after ten thousand batches.
        select s.batch_id into high
            from (select p.batch_id, row_number() over (order by p.batch_id) as n,
                         sum(greatest(coalesce(p.keys, 0), 1)) over (order by p.batch_id) as total
                    from tailwater.batch p
                   where p.pipeline = f.pipeline and p.batch_id > low and p.batch_id <= up_to) s
            where s.total >= greatest(max_keys, 10000) or s.n >= 10000
            order by s.batch_id limit 1;
        high := coalesce(high, up_to);
        for b in execute format('select l.batch_id, count(*) as n from tailwater.%I l '
                                'where l.batch_id > $1 and l.batch_id <= $2 and l.lane = $3 group by 1 order by 1',
                                'ledger_' || f.name)
                 using low, high, lane loop
            if keys > 0 and keys + b.n > max_keys then
                return;
            end if;
            keys := keys + b.n;
            to_batch := b.batch_id;
        end loop;
        if keys >= max_keys then
            return;
        end if;
        low := high;
    end loop;
    to_batch := up_to;
end
$$;

-- ---- for consumers ----

-- True where the consumer is new, false where it was there already: then nothing changes.
-- start 'now': what changes from here on.  'all': a rebuild first.  Either way without a gap: the position is the clock's
-- as this transaction sees it, and whatever it does not see has a higher number.
create function tailwater.subscribe(consumer text, fact text, start text default 'now') returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    f tailwater.fact;
    n bigint;
begin
    perform tailwater.require_read_committed();
    f := tailwater.find_fact(fact);
    if consumer is null or consumer !~ '^[A-Za-z0-9_.@:/-]{1,63}$' then
        raise exception using errcode = '22023', message = 'not a name for a consumer',
            hint = 'up to 63 letters, digits, and . _ - : / @';
    end if;
    if start is null or start not in ('now', 'all') then
        raise exception using errcode = '22023', message = 'start is ''now'' or ''all''',
            hint = 'now: what changes from here on; all: a rebuild first';
    end if;
    insert into tailwater.consumer (name, fact, fresh_done, fan_out_done, backfill_done, everything_done)
        select subscribe.consumer, f.name, k.batch_id, k.batch_id, k.batch_id,
               case when start = 'now' then k.batch_id end
          from tailwater.clock k where k.pipeline = f.pipeline
        on conflict on constraint consumer_pkey do nothing;
    get diagnostics n = row_count;
    return n > 0;
end
$$;

-- True where there was such a consumer.  An open window is void.
create function tailwater.unsubscribe(consumer text, fact text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    n bigint;
begin
    perform tailwater.require_read_committed();
    perform tailwater.find_fact(fact);
    delete from tailwater.consumer k where k.name = unsubscribe.consumer and k.fact = unsubscribe.fact;
    get diagnostics n = row_count;
    return n > 0;
end
$$;

-- The next window, or the one that is open; no row where there is nothing to do.  Lanes: 0 fresh, 1 fan-out, 2 backfill;
-- fresh first, one window of a lower lane after every fourth.
create function tailwater.claim(consumer text, fact text, max_keys bigint default 100000)
returns table (claim_id uuid, lane smallint, from_batch bigint, to_batch bigint, keys bigint, everything boolean)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    f tailwater.fact;
    c tailwater.consumer;
begin
    perform tailwater.require_read_committed();
    f := tailwater.find_fact(claim.fact);
    if claim.max_keys is null or claim.max_keys < 1 then
        raise exception using errcode = '22023', message = 'max_keys is less than 1', hint = 'leave it out for 100000';
    end if;
    if tailwater.is_idle(claim.consumer, f) then
        return;
    end if;
    c := tailwater.lock_consumer(claim.consumer, claim.fact);
    f := tailwater.find_fact(claim.fact); -- as it is after the wait
    if tailwater.why_waiting(f) is not null then
        return;
    end if;
    if c.claim_id is null or c.claim_generation <> f.generation then
        c := tailwater.open_next(c, f, claim.max_keys);
        perform tailwater.store_consumer(c);
    end if;
    if c.claim_id is not null then
        return query select c.claim_id, c.claim_lane, c.claim_from, c.claim_to, c.claim_keys, c.claim_everything;
    end if;
end
$$;

-- Nothing to give?  Looked at without a lock, so that an idle claim writes nothing; but for an advance once a minute, or
-- every thousand batches, so that it need not look at the same batches for ever.
create function tailwater.is_idle(consumer text, f tailwater.fact) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    c tailwater.consumer;
    now_at bigint;
    fan_out_at bigint;
    newest bigint;
begin
    select * into c from tailwater.consumer k where k.name = is_idle.consumer and k.fact = f.name;
    if c.name is null then
        perform tailwater.refuse_unknown(consumer, f.name);
    end if;
    if tailwater.why_waiting(f) is not null then
        return true;
    end if;
    -- One snapshot: what is pending up to now_at is all visible to what follows.
    select k.batch_id, tailwater.lane_end(f.pipeline, 1::smallint),
           (select max(e.batch_id) from tailwater.everything e where e.fact = f.name and e.generation = f.generation)
        into now_at, fan_out_at, newest
        from tailwater.clock k where k.pipeline = f.pipeline;
    if c.claim_id is not null or c.stale_since is not null or c.everything_done is null or c.everything_done < newest
       or tailwater.has_pending(c, now_at) then
        return false;
    end if;
    if now_at - least(c.fresh_done, c.fan_out_done, c.backfill_done) >= 1000
       or (now_at > least(c.fresh_done, c.fan_out_done, c.backfill_done)
           and c.advanced_at < clock_timestamp() - interval '1 minute') then
        -- Only where the row is still what was looked at, and nobody has it.
        update tailwater.consumer k
           set fresh_done = greatest(k.fresh_done, now_at), fan_out_done = greatest(k.fan_out_done, fan_out_at),
               backfill_done = greatest(k.backfill_done, now_at), advanced_at = clock_timestamp()
         where k.name = c.name and k.fact = c.fact
           and (select l from tailwater.consumer l where l.name = c.name and l.fact = c.fact for update skip locked) = c;
    end if;
    return true;
end
$$;

-- The consumer's row with its next window in it; without one where nothing is pending.
create function tailwater.open_next(c tailwater.consumer, f tailwater.fact, max_keys bigint) returns tailwater.consumer
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    now_at bigint;
    fan_out_at bigint;
    up_to bigint;
    newest bigint;
    lanes smallint[];
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
        foreach try in array lanes loop
            done := case try when 0 then c.fresh_done when 1 then c.fan_out_done else c.backfill_done end;
            up_to := case try when 1 then fan_out_at else now_at end;
            w := tailwater.find_window(f, try, done, up_to, max_keys);
            if w.keys > 0 then
                c.claim_lane := try;
                c.claim_from := done + 1;
                c.claim_to := w.to_batch;
                c.claim_keys := w.keys;
                c.claim_everything := false;
                exit;
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

create function tailwater.move_lane(c tailwater.consumer, lane smallint, done bigint) returns tailwater.consumer
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    case lane
        when 0 then c.fresh_done := greatest(c.fresh_done, done);
        when 1 then c.fan_out_done := greatest(c.fan_out_done, done);
        when 2 then c.backfill_done := greatest(c.backfill_done, done);
    end case;
    return c;
end
$$;

-- The window is done.  In the transaction that did the work: exactly once.  After it: at least once.
create function tailwater.ack(consumer text, fact text, claim_id uuid) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    c tailwater.consumer;
begin
    perform tailwater.require_read_committed();
    perform tailwater.find_fact(fact);
    c := tailwater.lock_window(consumer, fact, claim_id);
    if c.claim_everything then
        c.everything_done := c.claim_to;
    else
        c := tailwater.move_lane(c, c.claim_lane, c.claim_to);
    end if;
    c.acked_at := clock_timestamp();
    c.advanced_at := c.acked_at;
    perform tailwater.store_consumer(tailwater.without_window(c));
end
$$;

-- The window is given back undone; a later claim has its keys again, perhaps with others.
create function tailwater.release(consumer text, fact text, claim_id uuid) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform tailwater.require_read_committed();
    perform tailwater.find_fact(fact);
    perform tailwater.store_consumer(tailwater.without_window(tailwater.lock_window(consumer, fact, claim_id)));
end
$$;

-- Everything from this batch on once more, as far back as the ledger is kept.  An open window is void.
create function tailwater.replay(consumer text, fact text, from_batch bigint) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    f tailwater.fact;
    c tailwater.consumer;
    floor bigint;
    highest bigint;
begin
    perform tailwater.require_read_committed();
    f := tailwater.find_fact(fact);
    c := tailwater.lock_consumer(consumer, fact);
    -- Shared with other consumers; what removes batches raises the floor first, and passes over one that is held.
    select l.kept_from into floor from tailwater.ledger_floor l where l.fact = f.name for share;
    highest := greatest(c.fresh_done, c.fan_out_done, c.backfill_done) + 1;
    if c.stale_since is not null then
        raise exception using errcode = 'TW014',
            message = format('consumer "%s" of fact %s is stale: what it has not read may be gone', consumer, fact),
            hint = format('its next window is everything: select * from tailwater.claim(%L, %L)', consumer, fact);
    end if;
    if from_batch is null or from_batch < floor or from_batch > highest then
        raise exception using errcode = 'TW014',
            message = format('batch %s is not among those that consumer "%s" of fact %s can replay', 
                             coalesce(from_batch::text, 'null'), consumer, fact),
            hint = format('from batch %s to %s; for what is older: unsubscribe, then subscribe(%L, %L, start => ''all'')',
                          floor, highest, consumer, fact);
    end if;
    c := tailwater.without_window(c);
    c.fresh_done := least(c.fresh_done, from_batch - 1);
    c.fan_out_done := least(c.fan_out_done, from_batch - 1);
    c.backfill_done := least(c.backfill_done, from_batch - 1);
    if c.everything_done is not null then -- null: a rebuild is owed anyway
        c.everything_done := least(c.everything_done, from_batch - 1);
    end if;
    perform tailwater.store_consumer(c);
end
$$;

-- ---- who may consume ----

-- The roles that were granted to: whoever may claim.
create function tailwater.consumer_roles() returns setof text
language sql stable set search_path = pg_catalog, pg_temp as $$
    select r.rolname::text
      from pg_proc p, aclexplode(p.proacl) a join pg_roles r on r.oid = a.grantee
     where p.pronamespace = 'tailwater'::regnamespace and p.proname = 'claim' and a.privilege_type = 'EXECUTE'
       and a.grantee <> p.proowner
     order by 1
$$;

create function tailwater.consumer_functions() returns setof text
language sql stable set search_path = pg_catalog, pg_temp as $$
    select p.oid::regprocedure::text
      from pg_proc p
     where p.pronamespace = 'tailwater'::regnamespace
       and (p.proname in ('subscribe', 'unsubscribe', 'claim', 'ack', 'release', 'replay')
            or p.proname in (select 'keys_' || f.name from tailwater.fact f))
     order by 1
$$;

-- The role may consume every fact of this database, also those declared later, and nothing else here.
create function tailwater.grant_consumer(role text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    name text;
begin
    if not exists (select from pg_roles r where r.rolname = role) then
        raise exception using errcode = '42704', message = format('there is no role "%s"', left(role, 63)),
            hint = format('create role %I login', left(role, 63));
    end if;
    revoke execute on all functions in schema tailwater from public;
    execute format('grant usage on schema tailwater to %I', role);
    for name in select tailwater.consumer_functions() loop
        execute format('grant execute on function %s to %I', name, role);
    end loop;
end
$$;

create function tailwater.revoke_consumer(role text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if not exists (select from pg_roles r where r.rolname = role) then
        raise exception using errcode = '42704', message = format('there is no role "%s"', left(role, 63)),
            hint = 'select tailwater.consumer_roles()';
    end if;
    execute format('revoke all on all functions in schema tailwater from %I', role);
    execute format('revoke all on schema tailwater from %I', role);
end
$$;

-- ---- housekeeping: the replicator's ledger keeper calls these ----

-- Marks consumers that are too far behind: keys pending for longer than max_age, or more than max_keys of them.  Whoever
-- is at work right now is passed over, and nobody is waited for.
create function tailwater.mark_stale(pipeline text, max_age interval, max_keys bigint)
returns table (fact text, consumer text, reason text)
language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    c tailwater.consumer;
    old bigint := tailwater.batch_at(mark_stale.pipeline, clock_timestamp() - mark_stale.max_age);
begin
    for c in select k.* from tailwater.consumer k join tailwater.fact f on f.name = k.fact
              where f.pipeline = mark_stale.pipeline and k.stale_since is null and tailwater.is_pinning(k)
              order by k.fact, k.name loop
        reason := case when tailwater.has_pending(c, old) then format('keys are pending for more than %s', mark_stale.max_age)
                       when tailwater.exceeds(c, mark_stale.max_keys)
                           then format('more than %s keys are pending', mark_stale.max_keys) end;
        continue when reason is null;
        update tailwater.consumer k
           set stale_since = clock_timestamp(), stale_reason = mark_stale.reason, claim_id = null, claim_generation = null,
               claim_lane = null, claim_from = null, claim_to = null, claim_keys = null, claim_everything = null,
               claimed_at = null
         where k.name = c.name and k.fact = c.fact
           and (select l from tailwater.consumer l where l.name = c.name and l.fact = c.fact for update skip locked) = c;
        if found then
            fact := c.fact;
            consumer := c.name;
            return next;
        end if;
    end loop;
end
$$;

-- Does this consumer need what it has not read?  Not where it is stale, or has to rebuild and has not begun to.  (For a
-- minute after it went stale all the same: a keys_<fact>() that had just seen its window open finds the keys.)
create function tailwater.is_pinning(c tailwater.consumer) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
    select case when c.stale_since is not null then c.stale_since > clock_timestamp() - interval '1 minute'
                when c.claim_id is not null then true
                else c.everything_done is not null
                     and not exists (select from tailwater.everything e join tailwater.fact f on f.name = e.fact
                                      where e.fact = c.fact and e.generation = f.generation
                                        and e.batch_id > c.everything_done) end
$$;

-- Are more than limit keys pending?  Counted only where the tables are large enough to hold so many.
create function tailwater.exceeds(c tailwater.consumer, max_keys bigint) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off
set max_parallel_workers_per_gather = 0 as $$
declare
    lowest bigint := least(c.fresh_done, c.fan_out_done, c.backfill_done);
    bytes numeric;
    n bigint;
begin
    select sum(pg_relation_size(format('tailwater.%I', p.name)::regclass)) into bytes
        from tailwater.ledger_partitions(c.fact) p where p.is_attached and p.upper > lowest;
    if coalesce(bytes, 0) <= max_keys::numeric * 36 then -- the least that a row takes
        return false;
    end if;
    execute format('select count(*) from (select from tailwater.%I l where l.batch_id > $1 and '
                   '(l.lane = 0 and l.batch_id > $2 or l.lane = 1 and l.batch_id > $3 or l.lane = 2 and l.batch_id > $4) '
                   'limit $5) s', 'ledger_' || c.fact)
        into n using lowest, c.fresh_done, c.fan_out_done, c.backfill_done, max_keys + 1;
    return n > max_keys;
end
$$;

-- How much is pending up to a batch, counted to a limit, and the oldest batch of what was counted: rows lie in the order of
-- batches.
create function tailwater.pending(c tailwater.consumer, up_to bigint, max_keys bigint, out keys bigint, out oldest bigint)
language plpgsql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off
set max_parallel_workers_per_gather = 0 as $$
begin
    execute format('select count(*), min(s.batch_id) from (select l.batch_id from tailwater.%I l '
                   'where l.batch_id > $1 and l.batch_id <= $2 and '
                   '(l.lane = 0 and l.batch_id > $3 or l.lane = 1 and l.batch_id > $4 or l.lane = 2 and l.batch_id > $5) '
                   'limit $6) s', 'ledger_' || c.fact)
        into keys, oldest
        using least(c.fresh_done, c.fan_out_done, c.backfill_done), up_to, c.fresh_done, c.fan_out_done,
              c.backfill_done, max_keys;
end
$$;

create function tailwater.lane_name(lane smallint) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
    select case lane when 0 then 'fresh' when 1 then 'fan-out' when 2 then 'backfill' end
$$;

-- For the ledger command: how each fact is …
create function tailwater.fact_states(pipeline text)
returns table (name text, "table" text, key text[], generation bigint, state text, reason text, kept_from bigint,
               partitions bigint, bytes bigint)
language sql stable set search_path = pg_catalog, pg_temp as $$
    select f.name, format('%s.%s', f.schema, f.table_name), f.key_names, f.generation,
           case when f.suspended is not null then 'suspended' when w.reason is not null then 'not ready'
                else 'ready' end,
           w.reason, l.kept_from, p.partitions, p.bytes
      from tailwater.fact f
      left join tailwater.ledger_floor l on l.fact = f.name
      cross join lateral (select tailwater.why_waiting(f)) w(reason)
      cross join lateral (select count(*),
                                 coalesce(sum(pg_total_relation_size(format('tailwater.%I', p.name)::regclass)), 0)::bigint
                            from tailwater.ledger_partitions(f.name) p) p(partitions, bytes)
     where f.pipeline = $1
     order by f.name
$$;

-- … and how far each consumer is.  It is 'stale', is 'working' on an open window, owes a 'rebuild', has keys 'pending'
-- (counted up to max_keys), or is 'up to date'.
create function tailwater.consumer_states(pipeline text, max_keys bigint)
returns table (fact text, name text, state text, pending_keys bigint, pending_is_bound boolean, oldest_batch bigint,
               oldest_at timestamptz, owes_everything boolean, reason text, claim_id uuid, claim_lane text,
               claim_from bigint, claim_to bigint, claim_keys bigint, claim_everything boolean, claimed_at timestamptz,
               fresh_done bigint, fan_out_done bigint, backfill_done bigint, everything_done bigint,
               acked_at timestamptz, stale_since timestamptz)
language sql stable set search_path = pg_catalog, pg_temp as $$
    select c.fact, c.name,
           case when c.stale_since is not null then 'stale' when c.claim_id is not null then 'working'
                when o.is_owed then 'rebuild' when p.keys > 0 then 'pending' else 'up to date' end,
           p.keys, p.keys >= $2, p.oldest, b.applied_at, o.is_owed, o.reason,
           c.claim_id, tailwater.lane_name(c.claim_lane), c.claim_from, c.claim_to, c.claim_keys, c.claim_everything,
           c.claimed_at, c.fresh_done, c.fan_out_done, c.backfill_done, c.everything_done, c.acked_at, c.stale_since
      from tailwater.consumer c
      join tailwater.fact f on f.name = c.fact
      join tailwater.clock k on k.pipeline = f.pipeline
      cross join lateral tailwater.pending(c, k.batch_id, $2) p
      left join tailwater.batch b on b.pipeline = f.pipeline and b.batch_id = p.oldest
      left join lateral (select e.batch_id, e.reason from tailwater.everything e
                          where e.fact = f.name and e.generation = f.generation order by e.batch_id desc limit 1) e on true
      cross join lateral (
          select c.stale_since is not null or c.everything_done is null or coalesce(c.everything_done < e.batch_id, false),
                 case when c.stale_since is not null then c.stale_reason
                      when c.everything_done < e.batch_id then e.reason
                      when c.everything_done is null then 'not built yet' end) o(is_owed, reason)
     where f.pipeline = $1
     order by c.fact, c.name
$$;

-- Raises each fact's floor to what nobody needs: older than the replay window, and read by every live consumer.
create function tailwater.raise_floors(pipeline text, replay_window interval) returns void
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off
set max_parallel_workers_per_gather = 0 as $$
declare
    moment timestamptz := clock_timestamp() - replay_window;
    -- Not past a page that is being written.
    bound bigint := least(tailwater.batch_at(raise_floors.pipeline, moment),
                          tailwater.lane_end(raise_floors.pipeline, 1::smallint)) + 1;
    f record;
    c tailwater.consumer;
    floor bigint;
    part record;
    is_needed boolean;
begin
    for f in select l.fact, l.kept_from from tailwater.ledger_floor l join tailwater.fact a on a.name = l.fact
              where a.pipeline = raise_floors.pipeline and l.kept_from < bound
              order by l.fact for no key update of l skip locked loop
        floor := bound;
        for c in select k.* from tailwater.consumer k where k.fact = f.fact and tailwater.is_pinning(k) loop
            -- The first partition that holds something pending: a look into each, not a count of it all.
            for part in select p.lower, p.upper from tailwater.ledger_partitions(f.fact) p
                         where p.is_attached and not p.is_pending and p.lower < floor
                           and p.upper > least(c.fresh_done, c.fan_out_done, c.backfill_done) order by p.lower loop
                execute format('select exists (select from tailwater.%I l where l.batch_id >= $1 and l.batch_id < $2 and '
                               '(l.lane = 0 and l.batch_id > $3 or l.lane = 1 and l.batch_id > $4 '
                               'or l.lane = 2 and l.batch_id > $5))', 'ledger_' || f.fact)
                    into is_needed
                    using greatest(part.lower, least(c.fresh_done, c.fan_out_done, c.backfill_done) + 1),
                          least(part.upper, floor), c.fresh_done, c.fan_out_done, c.backfill_done;
                if is_needed then
                    floor := least(floor, greatest(part.lower, least(c.fresh_done, c.fan_out_done, c.backfill_done) + 1));
                    exit;
                end if;
            end loop;
        end loop;
        if floor > f.kept_from then
            update tailwater.ledger_floor l set kept_from = floor, kept_since = moment where l.fact = f.fact;
        end if;
    end loop;
end
$$;

-- Rows that speak of batches which no ledger holds any more, a slice at a time.  Returns how many went.
create function tailwater.prune_batches(pipeline text, slice integer default 10000) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    floor bigint;
    n bigint;
begin
    select min(l.kept_from) into floor from tailwater.ledger_floor l join tailwater.fact f on f.name = l.fact
        where f.pipeline = prune_batches.pipeline;
    if floor is null then
        return 0;
    end if;
    delete from tailwater.everything e using tailwater.fact f
        where f.name = e.fact and f.pipeline = prune_batches.pipeline and e.batch_id < floor
          and exists (select from tailwater.everything newer where newer.fact = e.fact
                         and newer.generation >= e.generation and newer.batch_id > e.batch_id);
    delete from tailwater.batch b where b.pipeline = prune_batches.pipeline and b.batch_id = any (array(
        select p.batch_id from tailwater.batch p where p.pipeline = prune_batches.pipeline and p.batch_id < floor
         order by p.batch_id limit slice));
    get diagnostics n = row_count;
    return n;
end
$$;

-- Tells who listens on tailwater_<fact> that there is something new, and returns the number up to which that was looked at.
-- (While a page is being written, what is past its announcement is told of again: the page is not there to be seen.)
create function tailwater.notify_news(pipeline text, since bigint) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off
set max_parallel_workers_per_gather = 0 as $$
declare
    now_at bigint;
    told_at bigint;
    fact text;
    is_new boolean;
begin
    select k.batch_id, tailwater.lane_end(k.pipeline, 1::smallint) into now_at, told_at
        from tailwater.clock k where k.pipeline = notify_news.pipeline;
    if now_at = since or not exists (select from tailwater.batch b where b.pipeline = notify_news.pipeline
                                       and b.batch_id > since and b.batch_id <= now_at) then
        return told_at;
    end if;
    for fact in select f.name from tailwater.fact f where f.pipeline = notify_news.pipeline
                   and to_regclass(format('tailwater.%I', 'ledger_' || f.name)) is not null loop
        execute format('select exists (select from tailwater.%I l where l.batch_id > $1 and l.batch_id <= $2) or '
                       'exists (select from tailwater.everything e where e.fact = $3 and e.batch_id > $1)', 'ledger_' || fact)
            into is_new using since, now_at, fact;
        if is_new then
            perform pg_notify('tailwater_' || fact, now_at::text);
        end if;
    end loop;
    return told_at;
end
$$;

-- Brings the BRIN indexes of the partitions in use up to date: what they have not summarised is read whole.
create function tailwater.summarize_ledgers(pipeline text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    index oid;
begin
    for index in
        select i.indexrelid
          from tailwater.fact f
          join tailwater.clock k on k.pipeline = f.pipeline
          cross join lateral (select p.name from tailwater.ledger_partitions(f.name) p
                               where p.is_attached and p.lower <= k.batch_id order by p.lower desc limit 2) p
          join pg_index i on i.indrelid = format('tailwater.%I', p.name)::regclass
         where f.pipeline = summarize_ledgers.pipeline loop
        perform brin_summarize_new_values(index);
    end loop;
end
$$;

-- Adds to the statistics of the hour.
create function tailwater.add_statistics(facts text[], nodes smallint[], rows_changed bigint[], keys_written bigint[],
                                         deferred bigint[], null_keys bigint[]) returns void
language sql set search_path = pg_catalog, pg_temp as $$
    insert into tailwater.dimension_statistic as s (fact, node, hour, rows_changed, keys_written, deferred, null_keys)
    select u.fact, u.node, date_trunc('hour', clock_timestamp(), 'UTC'), sum(u.rows_changed), sum(u.keys_written),
           sum(u.deferred), sum(u.null_keys)
      from unnest($1, $2, $3, $4, $5, $6) u(fact, node, rows_changed, keys_written, deferred, null_keys)
      join tailwater.fact f on f.name = u.fact
     group by 1, 2, 3
    on conflict (fact, node, hour) do update
       set rows_changed = s.rows_changed + excluded.rows_changed, keys_written = s.keys_written + excluded.keys_written,
           deferred = s.deferred + excluded.deferred, null_keys = s.null_keys + excluded.null_keys
$$;

-- Counts the distinct keys of one hour that is over, of one fact; false where no such hour is left.  A count that the
-- ledger does not hold whole any more stays unknown.
create function tailwater.close_hour(pipeline text) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off
set max_parallel_workers_per_gather = 0 as $$
declare
    h record;
    low bigint;
    high bigint;
    names text;
begin
    select s.fact, s.hour, f.key_names, l.kept_since into h
        from tailwater.dimension_statistic s join tailwater.fact f on f.name = s.fact
        join tailwater.ledger_floor l on l.fact = f.name
        where f.pipeline = close_hour.pipeline and not s.is_closed
          and s.hour < date_trunc('hour', clock_timestamp() - interval '1 minute', 'UTC')
        order by s.hour, s.fact limit 1;
    if h is null then
        return false;
    end if;
    if h.hour >= h.kept_since then
        low := tailwater.batch_at(close_hour.pipeline, h.hour);
        high := tailwater.batch_at(close_hour.pipeline, h.hour + interval '1 hour');
        select string_agg(format('l.%I', k), ', ') into names from unnest(h.key_names) k;
        execute format('update tailwater.dimension_statistic s set distinct_keys = coalesce(d.n, 0) '
                       'from tailwater.fact_node n left join '
                       '(select u.node, count(*) as n from (select distinct l.node, %s from tailwater.%I l '
                       'where l.batch_id > $1 and l.batch_id <= $2 and l.lane < 2) u group by 1) d on d.node = n.node '
                       'where n.fact = $3 and s.fact = $3 and s.hour = $4 and s.node = n.node', names, 'ledger_' || h.fact)
            using low, high, h.fact, h.hour;
    end if;
    update tailwater.dimension_statistic s set is_closed = true where s.fact = h.fact and s.hour = h.hour;
    delete from tailwater.dimension_statistic s where s.fact = h.fact and s.hour < clock_timestamp() - interval '90 days';
    return true;
end
$$;

-- What a table that no fact declares yet would cause: for a thousand of its live rows, joined to a node of the fact by
-- columns = node_columns, how many distinct keys they reach.  Looks at a million joined rows at most.  sampled is null where
-- the table is not mirrored.
create function tailwater.sample_candidate(fact text, node smallint, schema text, table_name text, columns text[],
                                           node_columns text[], out sampled bigint, out keys bigint)
language plpgsql stable set search_path = pg_catalog, pg_temp set statement_timeout = '30s' as $$
declare
    f tailwater.fact := tailwater.find_fact(fact);
    candidate text;
    stored text;
    n record;
    child text := 'c';
    child_columns text[] := columns;
    own_columns text[] := node_columns;
    joins text := '';
    key text;
begin
    select format('%I.%I', t.mirror_schema, t.mirror_name) into candidate from tailwater.mirror_table t
        where t.pipeline = f.pipeline and t.schema = sample_candidate.schema and t.name = sample_candidate.table_name
          and t.state = 'ready';
    if candidate is null then
        return;
    end if;
    loop
        select * into strict n from tailwater.fact_node a where a.fact = f.name and a.node = sample_candidate.node;
        select format('%I.%I', t.mirror_schema, t.mirror_name) into strict stored from tailwater.mirror_table t
            where t.pipeline = f.pipeline and t.schema = n.schema and t.name = n.table_name;
        joins := joins || format(' join %s n%s on n%s._deleted_at is null and ', stored, n.node, n.node)
            || (select string_agg(format('n%s.%I = %s.%I', n.node, j.own, child, j.other), ' and ')
                  from unnest(own_columns, child_columns) j(own, other));
        exit when n.parent is null;
        child := 'n' || n.node;
        child_columns := n.columns;
        own_columns := n.parent_columns;
        node := n.parent;
    end loop;
    select string_agg(k.value ->> 'sql', ', ' order by k.i) into key
        from jsonb_array_elements(f.definition -> 'key') with ordinality k(value, i);
    execute format('with c as materialized (select * from %s where _deleted_at is null limit 1000), '
                   'j as (select row(k.*)::text as key from c %s cross join lateral '
                   '(select %s from (select n0.*) as %I) k limit 1000000) '
                   'select (select count(*) from c), (select count(distinct j.key) from j)',
                   candidate, joins, key, n.name)
        into sampled, keys;
end
$$;

revoke execute on all functions in schema tailwater from public;
