-- Freshness and volume: how much of each table the source changes, when it last did, and what is usual for it.

-- How far counting has come.  A parcel of counts is numbered by the process that made it (run): one whose commit was not
-- heard of is sent again, and does not count twice.
create table tailwater.volume_clock (
    pipeline    text primary key references tailwater.pipeline on delete cascade,
    run         text not null default '',
    nr          bigint not null default 0,
    counted_lsn pg_lsn not null,        -- what the mirror had then: all of it is counted
    counted_to  timestamptz,            -- the source's clock: everything committed before it is counted; null: not yet
    gap_at      timestamptz,            -- a process ended before it had stored its counts: changes up to here may lack
    -- Keys count for the hour in which they are written.  So hours in which the replicator stood, or was behind, tell nothing.
    stored_at   timestamptz,            -- the mirror's clock, of the newest parcel
    late_at     timestamptz             -- when the pipeline did not run, or was more than five minutes behind, last
) with (fillfactor = 50);

-- One row a table: its newest changes, what came before open_hour, and what is usual for it.
create table tailwater.volume (
    id             bigint generated always as identity primary key,
    pipeline       text not null,
    schema         text not null,       -- on the source
    name           text not null,
    counted_from   timestamptz not null, -- changes that the source committed from here on are counted
    unknown_to     timestamptz,         -- the table was not followed until then (quarantine)
    -- Written with the counts, so that a look reads one row a table.
    last_change    timestamptz,         -- the last commit that changed it
    newest_hour    timestamptz,         -- the newest hour with changes …
    newest_changes bigint,              -- … and how many these are
    open_hour      timestamptz not null, -- the first hour that is not judged yet
    -- Of the hour before open_hour; null while there is too little to compare with.
    hour_changes   bigint,
    usual_of       text check (usual_of in ('time of day', 'all hours')), -- the hours that it is compared with …
    usual_hours    integer,             -- … how many these are
    usual_low      bigint,              -- their 5th percentile …
    usual_median   bigint,
    usual_high     bigint,              -- … and 95th
    usual_most     bigint,
    usual_silence  interval,            -- the longest time without a change; null while there is too little
    unique (pipeline, schema, name),
    foreign key (pipeline, schema, name) references tailwater.mirror_table on delete cascade
) with (fillfactor = 70);

-- Changes of the source, by the hour of their commits; an hour without any has no row.  Truncates count as one each.
create table tailwater.volume_hour (
    volume    bigint not null references tailwater.volume on delete cascade,
    hour      timestamptz not null,
    inserted  bigint not null,
    updated   bigint not null,
    deleted   bigint not null,
    truncated bigint not null,
    first_at  timestamptz not null,
    last_at   timestamptz not null,
    primary key (volume, hour)
) with (fillfactor = 70);

-- The last change of a table's shape that its mirror table followed.
alter table tailwater.mirror_table
    add schema_changed_at timestamptz,
    add schema_change     text;         -- in words

-- A session begins at this place of the source's WAL.  Where the counts do not reach up to there, a process has ended without
-- storing its last ones.
create function tailwater.begin_volumes(pipeline text, lsn pg_lsn) returns void
language sql set search_path = pg_catalog, pg_temp as $$
    insert into tailwater.volume_clock as c (pipeline, counted_lsn) values ($1, $2)
    on conflict on constraint volume_clock_pkey do update
       set counted_lsn = $2,
           gap_at = case when c.counted_lsn <> $2
                         then greatest((select k.commit_time from tailwater.clock k where k.pipeline = $1), c.counted_to, c.gap_at)
                         else c.gap_at end;
    insert into tailwater.volume (pipeline, schema, name, counted_from, open_hour)
    select m.pipeline, m.schema, m.name, f.at, date_trunc('hour', f.at, 'UTC')
      from tailwater.mirror_table m join tailwater.clock k on k.pipeline = m.pipeline
      cross join lateral (select greatest(coalesce(k.commit_time, clock_timestamp()), m.copied_at) as at) f
     where m.pipeline = $1 and m.unlisted_lsn is null
    on conflict do nothing
$$;

-- Adds a parcel: [{"schema", "name", "hour", "inserted", "updated", "deleted", "truncated", "first_us", "last_us"}, …], an hour in
-- hours and times in microseconds since 1970.  counted_to null: as before.
create function tailwater.add_volumes(pipeline text, run text, nr bigint, lsn pg_lsn, counted_to timestamptz, lines jsonb)
returns void
language plpgsql set search_path = pg_catalog, pg_temp set jit = off as $$
begin
    update tailwater.volume_clock c
       set run = add_volumes.run, nr = add_volumes.nr, counted_lsn = add_volumes.lsn,
           counted_to = greatest(c.counted_to, add_volumes.counted_to), stored_at = n.at,
           late_at = case when least(coalesce(c.stored_at, '-infinity'),
                                     coalesce(greatest(c.counted_to, add_volumes.counted_to), '-infinity'))
                               < n.at - interval '5 minutes'
                          then n.at else c.late_at end
      from (select clock_timestamp() as at) n
     where c.pipeline = add_volumes.pipeline and (c.run, c.nr) is distinct from (add_volumes.run, add_volumes.nr);
    if not found then
        return;
    end if;
    with l as materialized (
        select v.id, timestamptz 'epoch' + r.hour * interval '1 hour' as hour, r.inserted, r.updated, r.deleted, r.truncated,
               timestamptz 'epoch' + r.first_us * interval '1 microsecond' as first_at,
               timestamptz 'epoch' + r.last_us * interval '1 microsecond' as last_at
          from jsonb_to_recordset(add_volumes.lines) r(schema text, name text, hour bigint, inserted bigint, updated bigint,
                                                       deleted bigint, truncated bigint, first_us bigint, last_us bigint)
          join tailwater.volume v on v.pipeline = add_volumes.pipeline and v.schema = r.schema and v.name = r.name
    ), newest as (
        update tailwater.volume v
           set last_change = greatest(v.last_change, s.last_at),
               newest_hour = greatest(v.newest_hour, s.hour),
               newest_changes = case when s.hour > v.newest_hour or v.newest_hour is null then s.n
                                   when s.hour = v.newest_hour then v.newest_changes + s.n
                                   else v.newest_changes end
          from (select distinct on (l.id) l.id, l.hour, l.inserted + l.updated + l.deleted + l.truncated as n,
                       max(l.last_at) over (partition by l.id) as last_at
                  from l order by l.id, l.hour desc) s
         where v.id = s.id
    )
    insert into tailwater.volume_hour as h (volume, hour, inserted, updated, deleted, truncated, first_at, last_at)
    select l.id, l.hour, l.inserted, l.updated, l.deleted, l.truncated, l.first_at, l.last_at from l
    on conflict on constraint volume_hour_pkey do update
       set inserted = h.inserted + excluded.inserted, updated = h.updated + excluded.updated,
           deleted = h.deleted + excluded.deleted, truncated = h.truncated + excluded.truncated,
           first_at = least(h.first_at, excluded.first_at), last_at = greatest(h.last_at, excluded.last_at);
end
$$;

-- Compares the last hour that is over, of up to so many tables, with the hours before it; returns how many tables there were.
-- Hours are compared with those of the same time of day, one more or less (jobs are late, clocks change in summer), once
-- there are two weeks of them; with all hours from three days on; with nothing before.
create function tailwater.judge_volumes(pipeline text, max_tables integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set jit = off as $$
declare
    this_hour timestamptz;
    v record;
    began timestamptz;
    judged integer := 0;
begin
    -- What is counted late is counted in its own hour; a minute is for the commits whose times are not in their order.
    select date_trunc('hour', c.counted_to - interval '1 minute', 'UTC') into this_hour
        from tailwater.volume_clock c where c.pipeline = judge_volumes.pipeline;
    -- To the end of the minute: the rows of what is left out for weeks are written once a minute.
    update tailwater.volume w set unknown_to = date_trunc('minute', c.counted_to) + interval '1 minute'
        from tailwater.volume_clock c, tailwater.mirror_table m
        where w.pipeline = judge_volumes.pipeline and c.pipeline = w.pipeline
          and (m.pipeline, m.schema, m.name) = (w.pipeline, w.schema, w.name)
          and (m.quarantine_lsn is not null or m.unlisted_lsn is not null)
          and w.unknown_to is distinct from date_trunc('minute', c.counted_to) + interval '1 minute';
    for v in select w.id, w.counted_from from tailwater.volume w
              where w.pipeline = judge_volumes.pipeline and w.open_hour < this_hour order by w.open_hour, w.id limit max_tables loop
        judged := judged + 1;
        began := greatest(date_trunc('hour', v.counted_from + interval '1 hour' - interval '1 microsecond', 'UTC'),
                          this_hour - interval '35 days');
        with counted as (
            select h.hour, h.inserted + h.updated + h.deleted + h.truncated as n, h.first_at, h.last_at,
                   h.first_at - coalesce(lag(h.last_at) over (order by h.hour), began) as silence
              from tailwater.volume_hour h
             where h.volume = v.id and h.hour >= this_hour - interval '35 days' and h.hour < this_hour
        ), hours as (
            select g.hour, coalesce(c.n, 0) as n
              from generate_series(began, this_hour - interval '2 hours', interval '1 hour') g(hour)
              left join counted c using (hour)
        ), kind as (
            select case when count(*) >= 336 then 'time of day' when count(*) >= 72 then 'all hours' end as of from hours
        ), sample as (
            select k.of, count(*) as hours, percentile_disc(0.05) within group (order by s.n) as low,
                   percentile_disc(0.5) within group (order by s.n) as median,
                   percentile_disc(0.95) within group (order by s.n) as high, max(s.n) as most
              from kind k join hours s
                on k.of = 'all hours'
                or k.of = 'time of day'
                   and (extract(epoch from this_hour - interval '1 hour' - s.hour)::bigint / 3600) % 24 in (0, 1, 23)
             group by k.of
        )
        update tailwater.volume w
           set open_hour = this_hour,
               last_change = greatest(w.last_change, (select max(c.last_at) from counted c)),
               hour_changes = case when began < this_hour
                                   then coalesce((select c.n from counted c where c.hour = this_hour - interval '1 hour'), 0) end,
               usual_of = s.of, usual_hours = s.hours, usual_low = s.low, usual_median = s.median, usual_high = s.high,
               usual_most = s.most,
               usual_silence = (select max(c.silence) from counted c
                                 where (select count(*) from hours) >= 336
                                having count(distinct date_trunc('day', c.hour, 'UTC')) >= 5)
          from (select 1) one left join sample s on true
         where w.id = v.id;
        delete from tailwater.volume_hour h where h.volume = v.id and h.hour < this_hour - interval '36 days';
    end loop;
    return judged;
end
$$;

-- What there is to know of each table.  since: when its silence began, as far as anybody can say: its last change, or the
-- end of a time in which it was not counted.
create function tailwater.volume_states(pipeline text)
returns table (schema text, name text, counted_to timestamptz, last_change timestamptz, since timestamptz,
               this_hour bigint, open_hour timestamptz, hour_changes bigint, is_hour_whole boolean, usual_of text,
               usual_low bigint, usual_median bigint, usual_high bigint, usual_most bigint, usual_silence interval,
               is_followed boolean)
language sql stable set search_path = pg_catalog, pg_temp set jit = off as $$
    select v.schema, v.name, c.counted_to, v.last_change,
           greatest(v.last_change, v.counted_from, v.unknown_to, c.gap_at,
                    case when m.resynced_differences > 0 then m.resynced_at end),
           case when v.newest_hour = date_trunc('hour', c.counted_to, 'UTC') then v.newest_changes else 0 end,
           v.open_hour, v.hour_changes,
           v.open_hour - interval '1 hour' >= greatest(v.counted_from, v.unknown_to, c.gap_at), v.usual_of,
           v.usual_low, v.usual_median, v.usual_high, v.usual_most, v.usual_silence,
           m.quarantine_lsn is null and m.unlisted_lsn is null and m.state = 'ready'
      from tailwater.volume v
      join tailwater.volume_clock c on c.pipeline = v.pipeline
      join tailwater.mirror_table m on (m.pipeline, m.schema, m.name) = (v.pipeline, v.schema, v.name)
     where v.pipeline = $1
     order by v.schema, v.name
$$;

revoke execute on function tailwater.begin_volumes(text, pg_lsn),
    tailwater.add_volumes(text, text, bigint, pg_lsn, timestamptz, jsonb), tailwater.judge_volumes(text, integer),
    tailwater.volume_states(text) from public;
