-- Bills with lines and payments: the view that took 55 minutes to refresh.
create table customers (id int primary key, name text not null, segment text);
create table bills (id bigint primary key, customer_id int references customers, issued_at timestamptz not null, is_void boolean not null default false);
create table bill_lines (bill_id bigint references bills, nr int, amount numeric(12,2) not null, primary key (bill_id, nr));
create table payments (id bigint primary key, bill_id bigint, paid numeric(12,2) not null, paid_at timestamptz);
insert into customers select i, 'customer ' || i, 'abc' from generate_series(1, 20) i;
insert into bills select i, 1 + i % 20, '2024-01-01'::timestamptz + i * interval '1 h' from generate_series(1, 300) i;
insert into bill_lines select 1 + i / 3, i % 3, i % 50 from generate_series(0, 899) i;
insert into payments select i, i, 10, '2024-02-01' from generate_series(1, 200) i;
