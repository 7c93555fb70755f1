-- The ledger's BRIN indexes are brought up to date range by range, and it is remembered how far.
--
-- A range whose summary was interrupted (a statement cancelled, a backend killed, a server that crashed) keeps a placeholder.
-- PostgreSQL takes it for a summary when it looks for ranges that have none, so it stays; and a scan that has met one takes
-- every range behind it for another (brin_deform_tuple() sets bt_placeholder and nothing takes it back): the index is there
-- and every question reads the partition to its end.  So what is not known to be whole is taken back and made anew.

create table tailwater.ledger_summary (
    index    oid primary key,      -- of a partition
    name     text not null,        -- its name: after a dump is restored the numbers mean others
    filenode oid not null,         -- another one: it was made anew, or emptied
    block    bigint not null       -- ranges below it are whole
);

-- The partitions whose indexes have ranges that are full and not known to be whole: from first to below end, so many blocks
-- each; each fact's newest first.  A partition's last pages, less than a range, stay as they are: they are read by whoever
-- asks, which is less than a millisecond.
create function tailwater.ledger_ranges(pipeline text) returns table (index oid, first bigint, "end" bigint, step bigint)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    i record;
begin
    delete from tailwater.ledger_summary s
     where not exists (select from pg_class c where c.oid = s.index and c.relname = s.name and c.relfilenode = s.filenode);
    for i in
        select x.oid, x.relname, x.reloptions, coalesce(s.block, 0) as block, z.step,
               pg_relation_size(n.indrelid) / current_setting('block_size')::bigint / z.step * z.step as "end"
          from tailwater.fact f
          join tailwater.clock k on k.pipeline = f.pipeline
          cross join lateral (select p.name, row_number() over (order by p.lower desc) as age
                                from tailwater.ledger_partitions(f.name) p
                               where p.is_attached and not p.is_pending and p.lower <= k.batch_id) p
          join pg_index n on n.indrelid = format('tailwater.%I', p.name)::regclass
          join pg_class x on x.oid = n.indexrelid
          join pg_am a on a.oid = x.relam and a.amname = 'brin'
          cross join lateral (select coalesce((select o.option_value::bigint from pg_options_to_table(x.reloptions) o
                                                where o.option_name = 'pages_per_range'), 128) as step) z
          left join tailwater.ledger_summary s on s.index = x.oid
         where f.pipeline = ledger_ranges.pipeline order by p.age, f.name loop
        if 'autosummarize=on' = any (i.reloptions) then
            execute format('alter index %s set (autosummarize = off)', i.oid::regclass);
        end if;
        if i.block < i."end" then
            index := i.oid;
            first := i.block;
            "end" := i."end";
            step := i.step;
            return next;
        end if;
    end loop;
end
$$;

-- One range, whatever was there before.
create function tailwater.summarize_range(index oid, block bigint) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform brin_desummarize_range(index::regclass, block);
    perform brin_summarize_range(index::regclass, block);
end
$$;

-- Ranges of the index are whole below that block.
create function tailwater.ranges_are_whole(index oid, block bigint) returns void
language sql set search_path = pg_catalog, pg_temp as $$
    insert into tailwater.ledger_summary as s (index, name, filenode, block)
        select c.oid, c.relname, c.relfilenode, $2 from pg_class c where c.oid = $1
        on conflict on constraint ledger_summary_pkey do update
           set name = excluded.name, filenode = excluded.filenode, block = excluded.block
$$;

drop function tailwater.summarize_ledgers(text);
revoke execute on function tailwater.ledger_ranges(text), tailwater.summarize_range(oid, bigint),
                           tailwater.ranges_are_whole(oid, bigint) from public;
