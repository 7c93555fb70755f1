-- What tables have, facts have: how many keys in an hour, against what is usual for each.

create table tailwater.fact_volume (
    fact         text primary key references tailwater.fact on delete cascade,
    counted_from timestamptz not null,
    last_keys    timestamptz,           -- when keys were written last; null: not since that is known
    newest_hour  timestamptz,           -- the rest as those of tailwater.volume
    newest_keys  bigint,
    open_hour    timestamptz not null,
    hour_keys    bigint,
    usual_of     text,
    usual_low    bigint,
    usual_median bigint,
    usual_high   bigint,
    usual_most   bigint
);

-- What was written before this table was there is used.
insert into tailwater.fact_volume (fact, counted_from, newest_hour, newest_keys, open_hour)
select s.fact, s.oldest, s.newest,
       (select sum(d.keys_written) from tailwater.dimension_statistic d where d.fact = s.fact and d.hour = s.newest), s.oldest
  from (select d.fact, min(d.hour) as oldest, max(d.hour) as newest from tailwater.dimension_statistic d group by 1) s;

-- As before, and with the time.
create or replace function tailwater.add_statistics(facts text[], nodes smallint[], rows_changed bigint[], keys_written bigint[],
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
           deferred = s.deferred + excluded.deferred, null_keys = s.null_keys + excluded.null_keys;
    with n as materialized (select clock_timestamp() as at) -- one time for all rows
    insert into tailwater.fact_volume as v (fact, counted_from, open_hour, last_keys, newest_hour, newest_keys)
    select f.name, n.at, date_trunc('hour', n.at, 'UTC'), n.at, date_trunc('hour', n.at, 'UTC'), sum(u.keys_written)
      from unnest($1, $4) u(fact, keys_written) join tailwater.fact f on f.name = u.fact cross join n
     group by f.name, n.at having sum(u.keys_written) > 0
    on conflict (fact) do update
       set last_keys = excluded.last_keys, newest_hour = excluded.newest_hour,
           newest_keys = excluded.newest_keys + case when v.newest_hour = excluded.newest_hour then v.newest_keys else 0 end
$$;

-- Compares the last hour that is over, of each fact, with the hours before it, as judge_volumes() does for tables.
create function tailwater.judge_fact_volumes(pipeline text) returns void
language plpgsql set search_path = pg_catalog, pg_temp set jit = off as $$
declare
    -- Statistics are written some seconds late.
    this_hour timestamptz := date_trunc('hour', clock_timestamp() - interval '1 minute', 'UTC');
    v record;
    began timestamptz;
begin
    insert into tailwater.fact_volume (fact, counted_from, open_hour)
        select f.name, s.at, date_trunc('hour', s.at, 'UTC')
          from tailwater.fact f
          cross join lateral (select coalesce(min(d.hour), clock_timestamp()) as at
                                from tailwater.dimension_statistic d where d.fact = f.name) s
         where f.pipeline = judge_fact_volumes.pipeline
           and not exists (select from tailwater.fact_volume w where w.fact = f.name)
        on conflict do nothing;
    for v in select w.fact, w.counted_from from tailwater.fact_volume w join tailwater.fact f on f.name = w.fact
              where f.pipeline = judge_fact_volumes.pipeline and w.open_hour < this_hour loop
        began := greatest(date_trunc('hour', v.counted_from + interval '1 hour' - interval '1 microsecond', 'UTC'),
                          this_hour - interval '35 days');
        with counted as (
            select d.hour, sum(d.keys_written)::bigint as n from tailwater.dimension_statistic d
             where d.fact = v.fact and d.hour >= this_hour - interval '35 days' and d.hour < this_hour group by 1
        ), hours as (
            select g.hour, coalesce(c.n, 0) as n
              from generate_series(began, this_hour - interval '2 hours', interval '1 hour') g(hour)
              left join counted c using (hour)
        ), kind as (
            select case when count(*) >= 336 then 'time of day' when count(*) >= 72 then 'all hours' end as of from hours
        ), sample as (
            select k.of, percentile_disc(0.05) within group (order by s.n) as low,
                   percentile_disc(0.5) within group (order by s.n) as median,
                   percentile_disc(0.95) within group (order by s.n) as high, max(s.n) as most
              from kind k join hours s
                on k.of = 'all hours'
                or k.of = 'time of day'
                   and (extract(epoch from this_hour - interval '1 hour' - s.hour)::bigint / 3600) % 24 in (0, 1, 23)
             group by k.of
        )
        update tailwater.fact_volume w
           set open_hour = this_hour,
               hour_keys = case when began < this_hour
                                then coalesce((select c.n from counted c where c.hour = this_hour - interval '1 hour'), 0) end,
               usual_of = s.of, usual_low = s.low, usual_median = s.median, usual_high = s.high, usual_most = s.most
          from (select 1) one left join sample s on true
         where w.fact = v.fact;
    end loop;
end
$$;

-- What there is to know of each fact.
create function tailwater.fact_volume_states(pipeline text)
returns table (fact text, last_keys timestamptz, this_hour bigint, open_hour timestamptz, hour_keys bigint,
               is_hour_whole boolean, usual_of text, usual_low bigint, usual_median bigint, usual_high bigint, usual_most bigint)
language sql stable set search_path = pg_catalog, pg_temp set jit = off as $$
    select f.name, v.last_keys,
           case when v.newest_hour = date_trunc('hour', clock_timestamp(), 'UTC') then v.newest_keys else 0 end,
           v.open_hour, v.hour_keys,
           v.open_hour - interval '1 hour' >= greatest(v.counted_from, c.late_at) and f.suspended is null,
           v.usual_of, v.usual_low, v.usual_median, v.usual_high, v.usual_most
      from tailwater.fact f
      join tailwater.fact_volume v on v.fact = f.name
      join tailwater.volume_clock c on c.pipeline = f.pipeline
     where f.pipeline = $1
     order by f.name
$$;

revoke execute on function tailwater.judge_fact_volumes(text), tailwater.fact_volume_states(text) from public;
