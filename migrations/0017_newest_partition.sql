-- As before (0014_troubles.sql), but of a fact's partitions only the bounds of the newest are read: a day's are some thirty a fact,
-- and this is asked for at every look at the pipeline.  Names end in the lower bound.

create or replace function tailwater.troubles(pipeline text)
returns table (event text, subject text, words text, next text)
language sql stable set search_path = pg_catalog, pg_temp as $$
    select 'second_instance', $1,
           format('another instance, %s, wanted this pipeline %s s ago, and was refused', h.rival,
                  round(extract(epoch from clock_timestamp() - h.rival_at))),
           format('end one of the two: that one, or process %s on %s', h.pid, h.host)
      from tailwater.heartbeat h
     where h.pipeline = $1 and h.rival_at > clock_timestamp() - interval '5 minutes'
    union all
    select 'fact_suspended', f.name, format('the fact %s gets no keys: %s', f.name, f.suspended),
           'mend the row or the declaration; then restart the replicator, or send it SIGHUP'
      from tailwater.fact f where f.pipeline = $1 and f.suspended is not null
    union all
    select 'consumer_stale', format('%s of %s', c.name, c.fact),
           format('consumer %s of fact %s was given up as too far behind, and owes everything: %s', c.name, c.fact,
                  c.stale_reason),
           format('have it rebuild, which its next claim asks for: select * from tailwater.claim(%L, %L); or let it go: '
                  'select tailwater.unsubscribe(%L, %L)', c.name, c.fact, c.name, c.fact)
      from tailwater.consumer c join tailwater.fact f on f.name = c.fact
     where f.pipeline = $1 and c.stale_since is not null
    union all
    select 'feed_paused', a.name,
           format('feed %s is paused: %s', a.name, coalesce(a.pause_reason, 'asked for')
                  || coalesce('; the last answer: ' || left(a.pause_answer, 200), '')),
           format('when that is mended: tailwater feed resume %s', a.name)
      from tailwater.feed a join tailwater.fact f on f.name = a.fact
     where f.pipeline = $1 and a.paused_at is not null
    union all
    select 'feed_blocked', a.name, format('the receiver of feed %s takes nothing: %s', a.name, a.blocked_reason),
           'mend the receiver; the feed tries again by itself, and nothing is lost'
      from tailwater.feed a join tailwater.fact f on f.name = a.fact
     where f.pipeline = $1 and a.paused_at is null and a.blocked_since is not null
    union all
    select 'feed_refused', a.name,
           format('feed %s has %s dead letters: documents that its receiver refused for good', a.name, d.n),
           format('tailwater feed dead %s has the answers; when that is mended: tailwater feed retry %s', a.name, a.name)
      from tailwater.feed a join tailwater.fact f on f.name = a.fact
      cross join lateral (select count(*) from tailwater.feed_todo t where t.feed = a.id and t.next_at is null) d(n)
     where f.pipeline = $1 and d.n > 0
    union all
    select 'refresh_failed', format('%s.%s', r.into_schema, r.into_name),
           format('the refresh of %s.%s fails: %s', r.into_schema, r.into_name, left(r.error, 300)),
           'remove the cause; it is tried again by itself (tailwater ledger status)'
      from tailwater.refresh r join tailwater.fact f on f.name = r.fact
     where f.pipeline = $1 and r.failing_since is not null
    union all
    select 'refresh_keys_failed', format('%s.%s', r.into_schema, r.into_name),
           format('%s keys of %s.%s cannot be computed, and are not tried any more', p.n, r.into_schema, r.into_name),
           'tailwater ledger status shows the error; a change of the key tries it again'
      from tailwater.refresh r join tailwater.fact f on f.name = r.fact
      cross join lateral (select count(*) from tailwater.refresh_failure e
                           where e.fact = r.fact and e.next_at is null) p(n)
     where f.pipeline = $1 and p.n > 0
    union all
    select 'ledger_partition_missing', f.name,
           format('the ledger of fact %s has no partition for the batches to come', f.name),
           format('see who holds a lock that keeps it from being made: SELECT pid, query FROM pg_stat_activity WHERE pid IN '
                  '(SELECT pid FROM pg_locks WHERE granted AND relation = ''tailwater.ledger_%s''::regclass AND mode NOT IN '
                  '(''AccessShareLock'', ''RowShareLock'', ''RowExclusiveLock'')); it is made by itself once that has ended: '
                  'SELECT pg_terminate_backend(pid)', f.name)
      from tailwater.fact f join tailwater.clock k on k.pipeline = f.pipeline
      cross join lateral (select (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''(\d+)''\)'))[1]::bigint
                            from pg_class c
                           where c.relnamespace = 'tailwater'::regnamespace and c.relkind = 'r' and c.relispartition
                             and c.relname > ('ledger_' || f.name || '$')::name and c.relname < ('ledger_' || f.name || '%')::name
                           order by length(c.relname) desc, c.relname desc limit 1) p(top)
     where f.pipeline = $1 and p.top <= k.batch_id + 1
    union all
    -- It was left out for a reason, and then is no longer taken by the patterns for the same: nobody else says so.
    select 'table_not_configured', format('%s.%s', m.schema, m.name),
           format('%s.%s is no longer followed: %s', m.schema, m.name, m.quarantine_reason),
           'mend that; the replicator notices, and resyncs it'
      from tailwater.mirror_table m
     where m.pipeline = $1 and m.unlisted_lsn is not null and m.quarantine_lsn is not null
    union all
    select 'verified', format('%s.%s', m.schema, m.name),
           format('the last verify of %s.%s found %s rows that differ', m.schema, m.name, m.verified_differences),
           format('tailwater resync %s', case when format('%s.%s', m.schema, m.name) ~ '^[A-Za-z0-9_.-]+$'
                                              then format('%s.%s', m.schema, m.name)
                                              else quote_literal(format('%s.%s', m.schema, m.name)) end)
      from tailwater.mirror_table m
     where m.pipeline = $1 and m.verified_differences > 0 and m.unlisted_lsn is null
       and (m.resynced_at is null or m.resynced_at < m.verified_at)
$$;

revoke execute on function tailwater.troubles(text) from public;
