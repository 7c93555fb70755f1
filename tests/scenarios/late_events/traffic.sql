insert into events select 1000 + i, '2024-03-31 00:30+00'::timestamptz + i * interval '1 min', 'sale', 5 from generate_series(1, 90) i;
update events set happened_at = happened_at - interval '3 days' where id = 7;
update events set happened_at = null where id = 8;
delete from events where happened_at between '2024-04-02' and '2024-04-03';
update events set kind = 'sale' where id % 50 = 0;
insert into events values (5000, '2019-01-01', 'sale', 1);
