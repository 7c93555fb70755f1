\set product random(1, 5000)
\set event random(1, 250000)
-- The description is large and stays: the stream leaves such a value out.
update products set price = price + 0.01 where sku = 'SKU-' || lpad((:product)::text, 5, '0');
update events set body = body || '{"seen": true}' where id = :event;
delete from events where id = :event + 1;
