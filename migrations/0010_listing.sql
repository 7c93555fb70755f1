-- Tables that leave the configuration, and come back to it; and a job that has the configuration read again.
alter table tailwater.mirror_table
    add unlisted_lsn pg_lsn; -- a start found it no longer among the tables of the configuration: changes of transactions
                             -- with final_lsn from here on are not in it; null: it is listed

alter table tailwater.job
    drop constraint job_kind_check,
    add constraint job_kind_check check (kind in ('resync', 'verify', 'reload'));
