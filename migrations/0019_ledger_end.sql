-- Whether a ledger has got new keys is asked many times a second, and a ledger that grows fast has a long end that its BRIN
-- index has not summarised yet: while a fan-out was expanded, these questions computed more than the expansion.

-- Are rows of these numbers among the newest pages of the ledger?  True is certain; false is not, since writers may overtake
-- each other.
create function tailwater.ends_with_news(fact text, since bigint, up_to bigint) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
declare
    partition text;
    is_new boolean := false;
begin
    select p.name into partition from tailwater.ledger_partitions($1) p
     where p.is_attached and p.lower <= up_to and p.upper > since order by p.lower desc limit 1;
    if found then
        execute format('select exists (select from tailwater.%I l where l.ctid >= $1 and l.batch_id > $2 and l.batch_id <= $3)',
                       partition)
            into is_new
            using format('(%s,0)', greatest(pg_relation_size(format('tailwater.%I', partition))
                                            / current_setting('block_size')::bigint - 64, 0))::tid, since, up_to;
    end if;
    return is_new;
end
$$;

create or replace function tailwater.notify_news(pipeline text, since bigint) returns bigint
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
        is_new := tailwater.ends_with_news(fact, since, now_at);
        if not is_new then
            execute format('select exists (select from tailwater.%I l where l.batch_id > $1 and l.batch_id <= $2) or '
                           'exists (select from tailwater.everything e where e.fact = $3 and e.batch_id > $1)', 'ledger_' || fact)
                into is_new using since, now_at, fact;
        end if;
        if is_new then
            perform pg_notify('tailwater_' || fact, now_at::text);
        end if;
    end loop;
    return told_at;
end
$$;
revoke execute on function tailwater.ends_with_news(text, bigint, bigint) from public;

-- Brings the BRIN indexes of the partitions in use up to date: what they have not summarised is read whole.  Nobody else need
-- do it; the server, asked for it page by page, says in its log that it has no room for so many requests.
create or replace function tailwater.summarize_ledgers(pipeline text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    index record;
begin
    for index in
        select i.indexrelid, x.reloptions
          from tailwater.fact f
          join tailwater.clock k on k.pipeline = f.pipeline
          cross join lateral (select p.name from tailwater.ledger_partitions(f.name) p
                               where p.is_attached and p.lower <= k.batch_id order by p.lower desc limit 2) p
          join pg_index i on i.indrelid = format('tailwater.%I', p.name)::regclass
          join pg_class x on x.oid = i.indexrelid
         where f.pipeline = summarize_ledgers.pipeline loop
        if 'autosummarize=on' = any (index.reloptions) then
            execute format('alter index %s set (autosummarize = off)', index.indexrelid::regclass);
        end if;
        perform brin_summarize_new_values(index.indexrelid);
    end loop;
end
$$;
