update identities set person = 3 where visitor in ('v7', 'v8', 'v44');
insert into identities values ('v65', 4), ('v66', 99);
insert into visits select 1000 + i, 'v' || i, 5, '2025-01-01' from generate_series(1, 30) i;
delete from identities where person = 11;
update visits set visitor = 'v1' where visitor = 'v2';
delete from visits where id % 13 = 0;
