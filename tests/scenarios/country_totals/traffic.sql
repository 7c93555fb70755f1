update customers set country = 'NL' where id in (1, 2);
update orders set status = 'open' where id % 9 = 0;
update orders set customer_id = 5 where id = 6;
delete from order_lines where order_id < 20;
update order_lines set order_id = 100 where order_id = 101;
delete from customers where country = 'IT';
