\set order random(1, 250000)
\set product random(1, 5000)
-- Keys change: the lines of an order are renumbered; one of the last hundred products, which new
-- orders do not sell, gets another SKU, and all its lines follow.
update order_items set line = line + 100 where order_id = :order and line < 100;
update products set sku = case when sku like 'SKU-%' then 'OLD-' else 'SKU-' end || right(sku, 5)
 where (:product) > 4900
   and sku in ('SKU-' || lpad((:product)::text, 5, '0'), 'OLD-' || lpad((:product)::text, 5, '0'));
