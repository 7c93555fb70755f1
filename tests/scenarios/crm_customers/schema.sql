-- The state of each customer as a CRM wants it; the application deletes some, and marks others deleted.
create table customers (id int primary key, email text, deleted boolean not null default false, notes text);
create table addresses (customer_id int, kind text, city text, primary key (customer_id, kind));
create table orders (id bigint primary key, customer_id int, total numeric(12,2), at timestamptz);
insert into customers select i, 'c' || i || '@example.org' from generate_series(1, 80) i;
insert into addresses select i, k, 'city ' || i % 7 from generate_series(1, 80) i, unnest(array['home', 'work']) k;
insert into orders select i, 1 + i % 80, i, '2024-01-01'::timestamptz + i * interval '1 h' from generate_series(1, 300) i;
