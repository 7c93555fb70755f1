-- Tables that leave the configuration, and come back to it.
alter table tailwater.mirror_table
    add unlisted_lsn pg_lsn; -- a start found it no longer among the tables of the configuration: changes of transactions
                             -- with final_lsn from here on are not in it; null: it is listed
