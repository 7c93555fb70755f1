-- What a feed knows of its keys grows from nothing to millions of rows within one session, before anything has analyzed the
-- tables, and a planner that knows nothing of them takes "feed =" alone to leave few rows: it then reads all that the feed
-- knows, for each slice of keys.  So each key is looked up by itself here, whatever the planner believes of the tables: by
-- "offset 0", which no join is made of, or in a loop.  Besides that these two are as they were.

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
          left join lateral (select * from tailwater.feed_sent e
                              where e.feed = $1 and e.key = u.key::text[] offset 0) e on true
          left join lateral (select * from tailwater.feed_todo t
                              where t.feed = $1 and t.key = u.key::text[] offset 0) t on true),
    i as (insert into tailwater.feed_sent as e (feed, key, intended, intended_at)
              select $1, s.key, s.hash, s.since from s where s.is_wanted order by s.key
          on conflict (feed, key) do update
             set hash = null, intended = excluded.intended, intended_at = excluded.intended_at
           where e.hash is not null
              or (e.intended, e.intended_at) is distinct from (excluded.intended, excluded.intended_at))
    select s.n::integer, s.is_wanted, s.asked_at, s.since from s where s.is_wanted or s.asked_at is not null order by s.n
$$;

create or replace function tailwater.feed_record(
    feed integer, settled text[], asked_at timestamptz[], accepted text[], hashes text[], gone text[],
    failed text[], answers text[], counted boolean[], is_retry boolean, max_attempts integer, first_retry interval, longest_retry interval,
    max_dead bigint, unchanged bigint, requests bigint, latency double precision[]) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
    one record;
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
    for one in select u.key::text[] from unnest(accepted, hashes) u(key, hash), tailwater.feed a
                where u.hash is null and a.id = $1 and a.knows_all
               union all select unnest(feed_record.gone)::text[] loop
        delete from tailwater.feed_sent e where e.feed = $1 and e.key = one.key;
    end loop;
    for one in select u.key::text[], u.asked_at from unnest(settled, feed_record.asked_at) u(key, asked_at) loop
        delete from tailwater.feed_todo t where t.feed = $1 and t.key = one.key and t.asked_at = one.asked_at;
    end loop;
    if cardinality(failed) > 0 then
        insert into tailwater.feed_todo as t (feed, key, attempts, failed_at, answer, next_at)
            select $1, u.key, u.before + u.is_counted::integer, clock_timestamp(), u.answer,
                   case when u.before + u.is_counted::integer < max_attempts
                        then clock_timestamp() + least(first_retry * power(2, least(u.before, 30)), longest_retry)
                             * (0.75 + random() / 2) end
              from (select u.key::text[] as key, u.answer, u.is_counted,
                           case when feed_record.is_retry then coalesce(o.attempts, 0) else 0 end as before
                      from unnest(failed, answers, counted) u(key, answer, is_counted)
                      left join lateral (select * from tailwater.feed_todo o
                                          where o.feed = $1 and o.key = u.key::text[] offset 0) o on true) u
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
