\set order random(1, 250000)
begin;
insert into payments
select nextval('payment_ids'), id, 42, now(), '{"method": "card"}' from orders where id = :order
   for key share;
update orders set status = 'paid', note = 'paid online' where id = :order;
commit;
