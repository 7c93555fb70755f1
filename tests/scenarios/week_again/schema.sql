-- A week is computed again, its seven days at the same time.
create table sales (id bigint primary key, day date not null, amount numeric(12,2) not null);
insert into sales select i, date '2024-01-01' + i % 30, i % 40 from generate_series(1, 900) i;
