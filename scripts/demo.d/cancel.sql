\set order random(1, 250000)
-- An order goes, its lines and payments with it.
delete from orders where id = :order;
