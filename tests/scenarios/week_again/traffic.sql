update sales set amount = amount + 1 where day = '2024-01-20';
