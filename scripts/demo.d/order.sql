\set customer random(1, 100000)
\set product random(1, 5000)
\set lines random(1, 5)
begin;
insert into orders values (nextval('order_ids'), :customer) returning id \gset
insert into order_items
select :id, l, 'SKU-' || lpad((1 + (:product + l * 17) % 4900)::text, 5, '0'), l, 9.99
  from generate_series(1, :lines) l;
update customers set segment = 'active' where id = :customer;
insert into events values (nextval('event_ids'), :customer, 'order', now(), '{"from": "shop"}');
commit;
