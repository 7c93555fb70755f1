select c.name as country, count(distinct o.id) as orders, sum(i.quantity * i.price) as revenue,
       count(distinct p.id) as payments, count(distinct o.id) filter (where o.status = 'returned') as returned
  from countries c
  join customers u on u.country_id = c.id
  join orders o on o.customer_id = u.id
  join order_items i on i.order_id = o.id
  left join payments p on p.order_id = o.id
 group by c.name
 order by revenue desc, country
 limit 8;
