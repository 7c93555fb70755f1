-- Feeds: what each receiver has, what is to be sent outside of the ledger's windows, what was refused.
--
-- Everything here goes through these functions: a role that runs feeds (grant_feed) reads and writes no table of this schema.
-- A feed is one process at a time, by an advisory lock (1416118901, hashtext of its name) of its session.
--
-- The hash table is a memory of what was accepted.  An entry without a hash means that a document is, or was, on its way and
-- that nobody knows whether it arrived; it is written, and committed, before the request leaves.  So an entry with a hash is
-- always true, and what has no entry was never sent.

create table tailwater.feed (
    id               integer generated always as identity primary key,
    name             text not null unique check (name ~ '^[a-z_][a-z0-9_]*$' and octet_length(name) <= 40),
    fact             text not null references tailwater.fact on delete cascade,
    key_types        text[] not null,
    definition_hash  text not null,              -- of what makes the documents: a change compares all of them
    knows_all        boolean not null,           -- the receiver has nothing but what is in feed_sent
    created_at       timestamptz not null default clock_timestamp(),
    paused_at        timestamptz,
    pause_reason     text,
    pause_answer     text,                       -- the receiver's last one, where that is why
    blocked_since    timestamptz,                -- the receiver takes nothing
    blocked_reason   text,
    -- since created_at
    windows          bigint not null default 0,
    sent             bigint not null default 0,  -- documents accepted
    unchanged        bigint not null default 0,  -- keys whose document was as it had been
    refused          bigint not null default 0,  -- documents refused, each time counted
    requests         bigint not null default 0,
    sent_at          timestamptz,
    latency_ms       double precision,           -- from the commit on the source to the request: median …
    latency_p99_ms   double precision,           -- … and 99th percentile of the last thousand windows
    latency_max_ms   double precision,
    definition       jsonb                       -- for status: destination and fields, nothing private
) with (fillfactor = 50);

create table tailwater.feed_sent (
    feed integer not null references tailwater.feed on delete cascade,
    key  text[] not null,
    hash bytea,                                  -- of the document accepted last; null: it is not known which
    intended    bytea,                           -- … then: of the one that was to be sent last, and the ledger's number
    intended_at bigint,                          -- when that began
    primary key (feed, key)
) with (fillfactor = 80);

-- Keys to be sent besides those of windows: all of them for a rebuild, those asked for, those to be tried again, and dead
-- letters (next_at is null), which wait for a change or for somebody.
create table tailwater.feed_todo (
    feed      integer not null references tailwater.feed on delete cascade,
    key       text[] not null,
    is_forced boolean not null default false,    -- also where the document is as it was
    asked_at  timestamptz not null default clock_timestamp(),
    next_at   timestamptz default clock_timestamp(),
    attempts  integer not null default 0,
    failed_at timestamptz,
    answer    text,                              -- the receiver's, or why there is no document
    primary key (feed, key)
) with (fillfactor = 80);
create index on tailwater.feed_todo (feed, next_at) where next_at is not null;
create index on tailwater.feed_todo (feed, next_at) where next_at is not null and attempts > 0;
create index on tailwater.feed_todo (feed) where next_at is null;

create function tailwater.find_feed(feed text) returns tailwater.feed
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    f tailwater.feed;
begin
    select * into f from tailwater.feed a where a.name = find_feed.feed;
    if f.id is null then
        raise exception using errcode = 'TW011', message = format('there is no feed "%s"', left(feed, 63)),
            hint = coalesce((select 'the feeds are: ' || string_agg(a.name, ', ' order by a.name) from tailwater.feed a),
                            'none has run yet: tailwater feed run NAME');
    end if;
    return f;
end
$$;

-- Every key that the fact has or that the receiver may have is to be looked at (forced: and sent, changed or not).
create function tailwater.feed_fill(feed tailwater.feed, is_forced boolean) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp set jit = off as $$
declare
    f tailwater.fact := tailwater.find_fact(feed.fact);
    stored text;
    node text;
    expressions text;
    names text;
    n bigint;
begin
    select format('%I.%I', t.mirror_schema, t.mirror_name), a.name into strict stored, node
        from tailwater.fact_node a join tailwater.mirror_table t
          on t.pipeline = f.pipeline and t.schema = a.schema and t.name = a.table_name
       where a.fact = f.name and a.node = 0;
    select string_agg(format('(%s) as k%s', k.value ->> 'sql', k.i), ', ' order by k.i),
           string_agg(format('k.k%s', k.i), ', ' order by k.i)
        into expressions, names
        from jsonb_array_elements(f.definition -> 'key') with ordinality k(value, i);
    execute format('insert into tailwater.feed_todo as t (feed, key, is_forced) '
                   'select $1, s.key, $2 from ('
                   'select array[%s]::text[] as key from %s n0 cross join lateral (select %s from (select n0.*) as %I) k '
                   'where n0._deleted_at is null and array_position(array[%s]::text[], null) is null '
                   'union select e.key from tailwater.feed_sent e where e.feed = $1) s '
                   'on conflict (feed, key) do update set is_forced = t.is_forced or excluded.is_forced, '
                   'asked_at = excluded.asked_at, next_at = excluded.next_at, attempts = 0',
                   regexp_replace(names, '(k\.k\d+)', '\1::text', 'g'), stored, expressions, node,
                   regexp_replace(names, '(k\.k\d+)', '\1::text', 'g'))
        using feed.id, is_forced;
    get diagnostics n = row_count;
    return n;
end
$$;

-- The feed's row, made where there is none.  start 'all': the receiver has nothing, and gets everything first.  'now': it
-- has what others have sent, and gets what changes from here on; then keys that nobody knows are sent when they vanish.
create function tailwater.feed_open(name text, pipeline text, fact text, definition_hash text, definition jsonb, start text)
returns table (id integer, epoch uuid, is_new boolean, is_changed boolean)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    f tailwater.fact := tailwater.find_fact(feed_open.fact);
    d tailwater.feed;
    is_new boolean := false;
    is_changed boolean := false;
begin
    perform tailwater.require_read_committed();
    if f.pipeline <> feed_open.pipeline then
        raise exception using errcode = 'TW011',
            message = format('fact %s is of pipeline %s, not of %s', f.name, f.pipeline, left(feed_open.pipeline, 63)),
            hint = 'pipeline: in the configuration of a feed is that of its fact';
    end if;
    select * into d from tailwater.feed a where a.name = feed_open.name for update;
    if d.id is not null and d.fact <> f.name then
        raise exception using errcode = '22023',
            message = format('feed %s has been one of fact %s', d.name, d.fact),
            hint = format('give it another name, or let what it remembers go: tailwater feed drop %s', d.name);
    end if;
    if d.id is null then
        insert into tailwater.feed as a (name, fact, key_types, definition_hash, knows_all)
            values (feed_open.name, f.name, f.key_types, feed_open.definition_hash, feed_open.start = 'all')
            returning * into d;
        is_new := true;
    end if;
    -- A consumer that somebody has removed begins again with all of it.
    perform tailwater.subscribe('feed/' || d.name, f.name, case when is_new then feed_open.start else 'all' end);
    if d.key_types <> f.key_types then
        -- Another key: what is remembered is of no use, and the fact says "everything" itself.
        delete from tailwater.feed_sent s where s.feed = d.id;
        delete from tailwater.feed_todo t where t.feed = d.id;
        update tailwater.feed a set key_types = f.key_types, knows_all = false where a.id = d.id;
    elsif d.definition_hash <> feed_open.definition_hash then
        perform tailwater.feed_fill(d, false);
        is_changed := true;
    end if;
    update tailwater.feed a set definition_hash = feed_open.definition_hash, definition = feed_open.definition
        where a.id = d.id and (a.definition_hash, a.definition) is distinct from
              (feed_open.definition_hash, feed_open.definition);
    return query select d.id, p.epoch, is_new, is_changed
                   from tailwater.pipeline p where p.name = f.pipeline;
end
$$;

-- The parts of a fact's key, in order; no row where there is no such fact of the pipeline.
create function tailwater.feed_key(pipeline text, fact text) returns table (name text, type text)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select k.name, format_type(k.type::regtype, -1)
      from tailwater.fact f, unnest(f.key_names, f.key_types) with ordinality k(name, type, i)
     where f.pipeline = $1 and f.name = $2 order by k.i
$$;

-- What a round begins with: may it send, how many keys are due besides, and the clock.
create function tailwater.feed_look(feed integer, out paused_reason text, out due boolean, out next_due_ms bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    next_at timestamptz;
begin
    select case when a.paused_at is not null then coalesce(a.pause_reason, 'asked for') end into paused_reason
        from tailwater.feed a where a.id = feed_look.feed;
    if not found then
        raise exception using errcode = 'TW011', message = 'the feed was dropped while it ran',
            hint = 'start it again, or take it out of the configuration';
    end if;
    select t.next_at into next_at from tailwater.feed_todo t
        where t.feed = feed_look.feed and t.next_at is not null order by t.next_at limit 1;
    due := coalesce(next_at <= clock_timestamp(), false);
    next_due_ms := ceil(extract(epoch from next_at - clock_timestamp()) * 1000);
end
$$;

-- Keys that are due outside of windows, the longest first: those that were refused before, and apart from them the others.
create function tailwater.feed_due(feed integer, max_keys integer) returns table (key text, is_again boolean)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
    return query select t.key::text, true from tailwater.feed_todo t
        where t.feed = feed_due.feed and t.next_at <= clock_timestamp() and t.attempts > 0
        order by t.next_at limit max_keys;
    if not found then
        return query select t.key::text, false from tailwater.feed_todo t
            where t.feed = feed_due.feed and t.next_at <= clock_timestamp() order by t.next_at limit max_keys;
    end if;
end
$$;

-- The window is done.
create function tailwater.feed_ack(feed integer, claim_id uuid) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    d tailwater.feed;
begin
    update tailwater.feed a set windows = a.windows + 1 where a.id = feed_ack.feed returning a.* into d;
    perform tailwater.ack('feed/' || d.name, d.fact, claim_id);
end
$$;

-- The open window becomes keys that are due, all of them where it says everything, and is acknowledged: in this transaction.
create function tailwater.feed_spill(feed integer, claim_id uuid) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    d tailwater.feed;
    c tailwater.consumer;
    f tailwater.fact;
    n bigint;
begin
    select * into strict d from tailwater.feed a where a.id = feed_spill.feed;
    c := tailwater.lock_window('feed/' || d.name, d.fact, claim_id);
    if c.claim_everything then
        n := tailwater.feed_fill(d, false);
    else
        f := tailwater.find_fact(d.fact);
        execute format('insert into tailwater.feed_todo as t (feed, key) select $1, array[%s]::text[] '
                       'from tailwater.%I($2) k on conflict (feed, key) do update set asked_at = excluded.asked_at, '
                       'next_at = excluded.next_at, attempts = 0',
                       (select string_agg(format('k.%I::text', k.name), ', ' order by k.i)
                          from unnest(f.key_names) with ordinality k(name, i)), 'keys_' || f.name)
            using d.id, c.name;
        get diagnostics n = row_count;
    end if;
    perform tailwater.feed_ack(d.id, claim_id);
    return n;
end
$$;

-- Which of these documents are to be sent (by number from 1), and notes that they are.
--   vanished   the query has no row for the key; then the hash, if there is one, is of what says so
--   versions   the ledger's number as of the snapshot that the document was read under
-- asked_at: of the row of feed_todo that asks for the key, as it is seen here.
-- since: the number when it was begun to send this document.  What is sent again after a crash, unchanged, has the same one;
-- not so a document that was another one in between.
create function tailwater.feed_intend(feed integer, keys text[], hashes text[], vanished boolean[], versions bigint[])
returns table (n integer, is_wanted boolean, asked_at timestamptz, since bigint)
language sql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
    with s as materialized (
        select u.n, u.key::text[] as key, decode(u.hash, 'hex') as hash, t.asked_at,
               coalesce(t.is_forced, false)
               or case when u.is_vanished then e.feed is not null or not a.knows_all
                       else e.hash is distinct from decode(u.hash, 'hex') end as is_wanted,
               case when e.hash is null and e.intended = decode(u.hash, 'hex') then e.intended_at else u.version end as since
          from unnest($2, $3, $4, $5) with ordinality u(key, hash, is_vanished, version, n)
          join tailwater.feed a on a.id = $1
          left join tailwater.feed_sent e on e.feed = $1 and e.key = u.key::text[]
          left join tailwater.feed_todo t on t.feed = $1 and t.key = u.key::text[]),
    i as (insert into tailwater.feed_sent as e (feed, key, intended, intended_at)
              select $1, s.key, s.hash, s.since from s where s.is_wanted order by s.key
          on conflict (feed, key) do update
             set hash = null, intended = excluded.intended, intended_at = excluded.intended_at
           where e.hash is not null
              or (e.intended, e.intended_at) is distinct from (excluded.intended, excluded.intended_at))
    select s.n::integer, s.is_wanted, s.asked_at, s.since from s where s.is_wanted or s.asked_at is not null order by s.n
$$;

-- What became of a slice of keys.
--   settled, asked_at  need nothing more, of what feed_intend() saw asked for
--   accepted, hashes   taken by the receiver; a hash of null: what it took is that the key is gone
--   gone               have vanished, and the receiver is not told
--   failed, answers    tried again, later and later, until the attempts are used up (those that count)
-- Returns why the feed is paused by this, if it is.
create function tailwater.feed_record(
    feed integer, settled text[], asked_at timestamptz[], accepted text[], hashes text[], gone text[],
    failed text[], answers text[], counted boolean[], is_retry boolean, max_attempts integer, first_retry interval, longest_retry interval,
    max_dead bigint, unchanged bigint, requests bigint, latency double precision[]) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
    dead bigint;
    reason text;
begin
    insert into tailwater.feed_sent as e (feed, key, hash)
        select $1, u.key::text[], decode(u.hash, 'hex') from unnest(accepted, hashes) u(key, hash)
         where u.hash is not null order by u.key
    on conflict on constraint feed_sent_pkey do update
       set hash = excluded.hash, intended = null, intended_at = null;
    delete from tailwater.feed_sent e
        using (select u.key from unnest(accepted, hashes) u(key, hash) where u.hash is null
               union all select unnest(feed_record.gone)) u(key)
        where e.feed = $1 and e.key = u.key::text[];
    delete from tailwater.feed_todo t using unnest(settled, feed_record.asked_at) u(key, asked_at)
        where t.feed = $1 and t.key = u.key::text[] and t.asked_at = u.asked_at;
    if cardinality(failed) > 0 then
        insert into tailwater.feed_todo as t (feed, key, attempts, failed_at, answer, next_at)
            select $1, u.key, u.before + u.is_counted::integer, clock_timestamp(), u.answer,
                   case when u.before + u.is_counted::integer < max_attempts
                        then clock_timestamp() + least(first_retry * power(2, least(u.before, 30)), longest_retry)
                             * (0.75 + random() / 2) end
              from (select u.key::text[] as key, u.answer, u.is_counted,
                           case when feed_record.is_retry then coalesce(o.attempts, 0) else 0 end as before
                      from unnest(failed, answers, counted) u(key, answer, is_counted)
                      left join tailwater.feed_todo o on o.feed = $1 and o.key = u.key::text[]) u
        on conflict on constraint feed_todo_pkey do update
           set attempts = excluded.attempts, failed_at = excluded.failed_at, answer = excluded.answer,
               next_at = excluded.next_at;
        select count(*) into dead from (select from tailwater.feed_todo t
            where t.feed = $1 and t.next_at is null limit max_dead + 1) s;
        if dead > max_dead then
            reason := format('more than %s documents were refused for good', max_dead);
        end if;
    end if;
    update tailwater.feed a
       set sent = a.sent + cardinality(accepted), unchanged = a.unchanged + feed_record.unchanged,
           refused = a.refused + cardinality(array_positions(counted, true)), requests = a.requests + feed_record.requests,
           sent_at = case when cardinality(accepted) > 0 then clock_timestamp() else a.sent_at end,
           blocked_since = case when cardinality(accepted) > 0 then null else a.blocked_since end,
           blocked_reason = case when cardinality(accepted) > 0 then null else a.blocked_reason end,
           latency_ms = coalesce(latency[1], a.latency_ms), latency_p99_ms = coalesce(latency[2], a.latency_p99_ms),
           latency_max_ms = coalesce(latency[3], a.latency_max_ms),
           paused_at = case when reason is not null and a.paused_at is null then clock_timestamp() else a.paused_at end,
           pause_reason = case when reason is not null and a.paused_at is null then reason else a.pause_reason end,
           pause_answer = case when reason is not null and a.paused_at is null then answers[cardinality(answers)]
                               else a.pause_answer end
     where a.id = $1;
    return reason;
end
$$;

-- The receiver takes nothing, and why: until it accepts something.
create function tailwater.feed_block(feed integer, reason text) returns void
language sql security definer set search_path = pg_catalog, pg_temp as $$
    update tailwater.feed a set blocked_since = coalesce(a.blocked_since, clock_timestamp()), blocked_reason = $2
     where a.id = $1
$$;

-- When the oldest transaction that gave a key of the window was committed on the source; null where it is not known.
create function tailwater.feed_committed_at(pipeline text, from_batch bigint, to_batch bigint) returns timestamptz
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select min(b.commit_time) from tailwater.batch b
     where b.pipeline = $1 and b.batch_id between $2 and $3 and b.keys > 0
$$;

create function tailwater.feed_clock(pipeline text) returns bigint
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select k.batch_id from tailwater.clock k where k.pipeline = $1
$$;

-- ---- for the feed command ----

-- Wakes the feed: whoever listens for its fact's keys looks now.  Returns n.
create function tailwater.feed_wake(feed tailwater.feed, n bigint) returns bigint
language sql set search_path = pg_catalog, pg_temp as $$
    select n from pg_notify('tailwater_' || ($1).fact, 'feed')
$$;

-- Keys as the ledger has them ("007" of a bigint is "7"); an error where one of them is none of the fact's.
create function tailwater.feed_keys(feed tailwater.feed, keys text[]) returns setof text[]
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    wrong text;
begin
    select u into wrong from unnest(keys) u
        where cardinality(u::text[]) <> cardinality(($1).key_types) or array_position(u::text[], null) is not null;
    if wrong is not null then
        raise exception using errcode = '22023', message = format('"%s" is no key of fact %s', left(wrong, 63), ($1).fact),
            hint = format('its parts are of type %s', array_to_string(($1).key_types, ', '));
    end if;
    return query execute format('select distinct array[%s]::text[] from unnest($1) u',
        (select string_agg(format('((u::text[])[%s]::%s)::text', t.i, t.type::regtype), ', ' order by t.i)
           from unnest(($1).key_types) with ordinality t(type, i))) using keys;
exception when data_exception then
    raise exception using errcode = '22023', message = sqlerrm; -- it is about what was asked for, not about a row
end
$$;

create function tailwater.feed_pause(feed text, reason text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    d tailwater.feed := tailwater.find_feed(feed);
begin
    update tailwater.feed a set paused_at = clock_timestamp(), pause_reason = feed_pause.reason, pause_answer = null
        where a.id = d.id and a.paused_at is null;
    return found;
end
$$;

create function tailwater.feed_resume(feed text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    d tailwater.feed := tailwater.find_feed(feed);
    n bigint;
begin
    update tailwater.feed a set paused_at = null, pause_reason = null, pause_answer = null
        where a.id = d.id and a.paused_at is not null;
    get diagnostics n = row_count;
    return tailwater.feed_wake(d, n) > 0;
end
$$;

-- Dead letters, and what waits to be tried again, are due now; all of them where keys is null.
create function tailwater.feed_retry(feed text, keys text[]) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    d tailwater.feed := tailwater.find_feed(feed);
    n bigint;
begin
    update tailwater.feed_todo t set next_at = clock_timestamp(), asked_at = clock_timestamp(), attempts = 0
        where t.feed = d.id and t.attempts > 0
          and (feed_retry.keys is null or t.key in (select k from tailwater.feed_keys(d, feed_retry.keys) k));
    get diagnostics n = row_count;
    return tailwater.feed_wake(d, n);
end
$$;

-- These keys are sent again whether or not their documents changed; all of them where keys is null.
create function tailwater.feed_resend(feed text, keys text[]) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    d tailwater.feed := tailwater.find_feed(feed);
    n bigint;
begin
    if keys is null then
        n := tailwater.feed_fill(d, true);
    else
        insert into tailwater.feed_todo as t (feed, key, is_forced)
            select d.id, k, true from tailwater.feed_keys(d, feed_resend.keys) k
        on conflict on constraint feed_todo_pkey do update
           set is_forced = true, asked_at = excluded.asked_at, next_at = excluded.next_at, attempts = 0;
        get diagnostics n = row_count;
    end if;
    return tailwater.feed_wake(d, n);
end
$$;

-- Forgets the feed, and gives its hold on the ledger up.  Whoever ran it would begin it anew at once.
create function tailwater.feed_drop(feed text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    d tailwater.feed := tailwater.find_feed(feed);
begin
    if not pg_try_advisory_xact_lock(1416118901, hashtext(d.name)) then
        raise exception using errcode = '55006', message = format('feed %s is being run', d.name),
            hint = 'end what runs it first; a replicator ends what its configuration names no more, at a SIGHUP';
    end if;
    perform tailwater.unsubscribe('feed/' || d.name, d.fact);
    delete from tailwater.feed a where a.id = d.id;
    return found;
end
$$;

create function tailwater.feed_dead(feed text, max_rows integer)
returns table (key text[], attempts integer, failed_at timestamptz, next_at timestamptz, answer text)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select t.key, t.attempts, t.failed_at, t.next_at, t.answer
      from tailwater.feed_todo t
     where t.feed = (tailwater.find_feed($1)).id and t.attempts > 0
     order by t.next_at is not null, t.failed_at, t.key limit $2
$$;

-- A feed is 'paused'; 'not running'; 'blocked' by its receiver; 'waiting' for the fact's tables; has keys 'pending'; or is
-- 'up to date'.
create function tailwater.feed_states(pipeline text)
returns table (name text, fact text, state text, reason text, is_running boolean, pending_keys bigint,
               oldest_at timestamptz, due bigint, retrying bigint, dead bigint, windows bigint, sent bigint,
               unchanged bigint, refused bigint, requests bigint, sent_at timestamptz, latency_ms double precision,
               latency_p99_ms double precision, latency_max_ms double precision, definition jsonb)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select a.name, a.fact,
           case when a.paused_at is not null then 'paused' when not r.is_running then 'not running'
                when b.is_blocked then 'blocked' when w.reason is not null then 'waiting'
                when c.owes_everything or c.pending_keys > 0 or t.due > 0 or c.claim_id is not null then 'pending'
                else 'up to date' end,
           case when a.paused_at is not null
                then coalesce(a.pause_reason, 'asked for') || coalesce('; the last answer: ' || a.pause_answer, '')
                when b.is_blocked then a.blocked_reason
                when w.reason is not null then w.reason else c.reason end,
           r.is_running, c.pending_keys, c.oldest_at, t.due, t.retrying, t.dead, a.windows, a.sent, a.unchanged,
           a.refused, a.requests, a.sent_at, a.latency_ms, a.latency_p99_ms, a.latency_max_ms, a.definition
      from tailwater.feed a
      join tailwater.fact f on f.name = a.fact
      left join tailwater.consumer_states($1, 1000000) c on c.fact = a.fact and c.name = 'feed/' || a.name
      cross join lateral (select tailwater.why_waiting(f)) w(reason)
      cross join lateral (select exists (select from pg_locks l where l.locktype = 'advisory' and l.classid = 1416118901
                                            and l.objid = (hashtext(a.name)::bigint & 4294967295)::oid
                                            and l.objsubid = 2 and l.granted
                                            and l.database = (select d.oid from pg_database d
                                                               where d.datname = current_database()))) r(is_running)
      cross join lateral (select count(*) filter (where t.attempts = 0), count(*) filter (where t.attempts > 0 and t.next_at is not null),
                                 count(*) filter (where t.next_at is null)
                            from tailwater.feed_todo t where t.feed = a.id) t(due, retrying, dead)
      cross join lateral (select a.blocked_since is not null
                                 and (c.owes_everything or c.pending_keys > 0 or c.claim_id is not null
                                      or t.due > 0 or t.retrying > 0)) b(is_blocked)
     where f.pipeline = $1
     order by a.name
$$;

-- The role may run feeds, and consume facts, of this database.  What a feed's query reads it has to be granted besides.
create function tailwater.grant_feed(role text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    name text;
begin
    perform tailwater.grant_consumer(role);
    for name in select p.oid::regprocedure::text from pg_proc p
                 where p.pronamespace = 'tailwater'::regnamespace and p.prosecdef
                   and p.proname in ('feed_open', 'feed_key', 'feed_look', 'feed_due', 'feed_spill', 'feed_intend', 'feed_record',
                                     'feed_ack', 'feed_block', 'feed_committed_at', 'feed_clock', 'feed_pause',
                                     'feed_resume', 'feed_retry', 'feed_resend', 'feed_drop', 'feed_dead', 'feed_states') loop
        execute format('grant execute on function %s to %I', name, role);
    end loop;
end
$$;

revoke execute on all functions in schema tailwater from public;
