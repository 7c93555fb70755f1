delete from payments where bill_id between 10 and 30;
update bills set is_void = true where id % 17 = 0;
begin; delete from bill_lines where bill_id = 5; delete from bills where id = 5; commit;
update customers set segment = 'xyz' where id = 3;
insert into payments select 1000 + i, i, 3, now() from generate_series(50, 60) i;
update bill_lines set amount = amount + 1 where nr = 2 and bill_id < 40;
update bills set is_void = false where id = 34;
