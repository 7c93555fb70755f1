-- Totals at the far end of two joins: lines reach their country through orders and customers.
create table customers (id int primary key, country text not null);
create table orders (id bigint primary key, customer_id int not null, status text not null);
create table order_lines (id bigint primary key, order_id bigint not null, amount numeric(12,2) not null);
insert into customers select i, (array['FR', 'DE', 'IT', 'GB'])[1 + i % 4] from generate_series(1, 40) i;
insert into orders select i, 1 + i % 40, 'paid' from generate_series(1, 200) i;
insert into order_lines select i, 1 + i % 200, i % 30 from generate_series(1, 600) i;
