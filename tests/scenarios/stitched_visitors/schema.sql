-- Visits of several cookies are one person once a login says so: the person is the key.
create table identities (visitor text primary key, person bigint not null);
create table visits (id bigint primary key, visitor text not null, pages int not null, at timestamptz not null);
insert into identities select 'v' || i, i % 25 from generate_series(1, 60) i;
insert into visits select i, 'v' || (1 + i % 70), i % 9, '2024-01-01'::timestamptz + i * interval '1 min' from generate_series(1, 400) i;
