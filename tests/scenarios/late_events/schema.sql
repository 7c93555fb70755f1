-- Events that arrive days late, and are counted on the day, in London, when they happened.
create table events (id bigint primary key, happened_at timestamptz, kind text, amount numeric(12,2));
insert into events select i, '2024-03-29 21:00+00'::timestamptz + i * interval '17 min', 'view', i from generate_series(1, 600) i;
