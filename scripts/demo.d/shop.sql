-- The demo's source: a shop of about 1.4 million rows, and the role that the replicator is there.

create table countries (id int primary key, code char(2) not null, name text not null);
create table customers (
    id bigint primary key,
    country_id int not null references countries,
    name text not null,
    email text not null unique,
    segment text,
    created_at timestamptz not null default now());
create table products (
    sku text primary key,
    name text not null,
    price numeric(10, 2) not null,
    description text,
    tags text[] not null default '{}');
create type order_status as enum ('new', 'paid', 'shipped', 'returned');
create table orders (
    id bigint primary key,
    customer_id bigint not null references customers,
    status order_status not null default 'new',
    placed_at timestamptz not null default now(),
    note text);
create table order_items (
    order_id bigint not null references orders on delete cascade,
    line int not null,
    sku text not null references products on update cascade,
    quantity int not null,
    price numeric(10, 2) not null,
    primary key (order_id, line));
create table payments (
    id bigint primary key,
    order_id bigint not null references orders on delete cascade,
    amount numeric(12, 2) not null,
    paid_at timestamptz not null default now(),
    details jsonb);
create table events (
    id bigint primary key,
    customer_id bigint,
    kind text not null,
    at timestamptz not null default now(),
    body jsonb);

insert into countries
select i, chr(65 + i / 26) || chr(65 + i % 26), 'Country ' || i from generate_series(0, 59) i;
insert into customers
select i, i % 60, 'Customer ' || i, 'c' || i || '@example.org',
       (array['retail', 'business', null, 'vip'])[1 + i % 4],
       '2023-01-01 00:00+00'::timestamptz + i * interval '5 min'
  from generate_series(1, 100000) i;
insert into products
select 'SKU-' || lpad(i::text, 5, '0'), 'Product ' || i, 1 + i % 900 + 0.99,
       repeat('All about product ' || i || '. ', 1 + i % 200), array['tag' || i % 7, 'tag' || i % 11]
  from generate_series(1, 5000) i;
insert into orders
select i, 1 + (i * 7919) % 100000, (enum_range(null::order_status))[1 + i % 4],
       '2024-01-01 00:00+00'::timestamptz + i * interval '2 min', null
  from generate_series(1, 250000) i;
insert into order_items
select i, l, 'SKU-' || lpad((1 + (i * 31 + l * 7) % 5000)::text, 5, '0'), 1 + (i + l) % 5,
       1 + (i * 31 + l * 7) % 900 + 0.99
  from generate_series(1, 250000) i, generate_series(1, 1 + i % 4) l;
insert into payments
select i, i, 10 + i % 500, '2024-01-01 00:10+00'::timestamptz + i * interval '2 min',
       jsonb_build_object('method', (array['card', 'invoice', 'wallet'])[1 + i % 3], 'try', i % 2)
  from generate_series(1, 200000) i;
insert into events
select i, 1 + (i * 13) % 100000, (array['view', 'search', 'basket', 'login'])[1 + i % 4],
       '2024-06-01 00:00+00'::timestamptz + i * interval '1 s', jsonb_build_object('page', i % 1000)
  from generate_series(1, 250000) i;
create index on customers (country_id);
create index on orders (customer_id);
create index on orders (placed_at);
create index on payments (order_id);
create index on order_items (sku);
create sequence order_ids start 1000000;
create sequence payment_ids start 1000000;
create sequence event_ids start 1000000;
analyze;

-- All that the replicator needs here; see the README.
create role tailwater login replication;
grant usage on schema public to tailwater;
grant select on all tables in schema public to tailwater;
