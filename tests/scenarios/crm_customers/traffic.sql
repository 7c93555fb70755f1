update customers set deleted = true where id % 10 = 0;
update customers set deleted = false where id = 20;
delete from customers where id = 33;
update addresses set city = 'elsewhere' where customer_id < 9;
delete from addresses where customer_id = 44 and kind = 'home';
update orders set customer_id = 50 where customer_id = 51;
update customers set id = 500 where id = 7;
insert into customers values (7, 'again@example.org');
