-- Feeds: one that waits for its receiver can be woken by its name; a key that nobody knew is told of once when it vanishes.

-- Wakes the feed: whoever listens for its fact's keys looks now, and this feed does so even while its receiver takes nothing.
create or replace function tailwater.feed_wake(feed tailwater.feed, n bigint) returns bigint
language sql set search_path = pg_catalog, pg_temp as $$
    select n from pg_notify('tailwater_' || ($1).fact, 'feed/' || ($1).name)
$$;

-- Which of these documents are to be sent (by number from 1), and notes that they are.
--   vanished   the query has no row for the key; then the hash, if there is one, is of what says so
--   versions   the ledger's number as of the snapshot that the document was read under
-- asked_at: of the row of feed_todo that asks for the key, as it is seen here.
-- since: the number when it was begun to send this document.  What is sent again after a crash, unchanged, has the same one;
-- not so a document that was another one in between.
create or replace function tailwater.feed_intend(feed integer, keys text[], hashes text[], vanished boolean[], versions bigint[])
returns table (n integer, is_wanted boolean, asked_at timestamptz, since bigint)
language sql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
    with s as materialized (
        select u.n, u.key::text[] as key, decode(u.hash, 'hex') as hash, t.asked_at,
               coalesce(t.is_forced, false)
               or case when u.is_vanished then case when e.feed is not null then e.hash is distinct from '' else not a.knows_all end
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
--   accepted, hashes   taken by the receiver; a hash of null: what it took is that the key is gone.  Where keys that nobody
--                      knows of are told of when they vanish, that this was said is kept, by an empty hash
--   gone               have vanished, and the receiver is not told
--   failed, answers    tried again, later and later, until the attempts are used up (those that count)
-- Returns why the feed is paused by this, if it is.
create or replace function tailwater.feed_record(
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
    insert into tailwater.feed_sent as e (feed, key, hash)
        select $1, u.key::text[], '' from unnest(accepted, hashes) u(key, hash), tailwater.feed a
         where u.hash is null and a.id = $1 and not a.knows_all order by u.key
    on conflict on constraint feed_sent_pkey do update
       set hash = excluded.hash, intended = null, intended_at = null;
    delete from tailwater.feed_sent e
        using (select u.key from unnest(accepted, hashes) u(key, hash), tailwater.feed a
                where u.hash is null and a.id = $1 and a.knows_all
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

-- Keys that are due outside of windows, the longest first: those that were refused before, how often and with which answer,
-- and apart from them the others.
drop function tailwater.feed_due(integer, integer);
create function tailwater.feed_due(feed integer, max_keys integer)
returns table (key text, is_again boolean, attempts integer, answer text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
    return query select t.key::text, true, t.attempts, coalesce(t.answer, '') from tailwater.feed_todo t
        where t.feed = feed_due.feed and t.next_at <= clock_timestamp() and t.attempts > 0
        order by t.next_at limit max_keys;
    if not found then
        return query select t.key::text, false, 0, '' from tailwater.feed_todo t
            where t.feed = feed_due.feed and t.next_at <= clock_timestamp() order by t.next_at limit max_keys;
    end if;
end
$$;

-- These keys of the open window are due, whatever was said of them before, and the window is acknowledged: in this transaction.
create function tailwater.feed_spill(feed integer, claim_id uuid, keys text[]) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    n bigint;
begin
    perform tailwater.feed_ack(feed_spill.feed, claim_id);
    insert into tailwater.feed_todo as t (feed, key) select $1, u::text[] from unnest(keys) u
    on conflict on constraint feed_todo_pkey do update
       set asked_at = excluded.asked_at, next_at = excluded.next_at, attempts = 0;
    get diagnostics n = row_count;
    return n;
end
$$;

-- Whoever may run feeds may still do so.
revoke execute on all functions in schema tailwater from public;
do $$
declare
    may record;
begin
    for may in select a.grantee::regrole as role from pg_proc p, aclexplode(p.proacl) a
                where p.oid = 'tailwater.feed_ack(integer, uuid)'::regprocedure and a.grantee not in (0, p.proowner) loop
        execute format('grant execute on function tailwater.feed_due(integer, integer), '
                       'tailwater.feed_spill(integer, uuid, text[]) to %s', may.role);
    end loop;
end
$$;
