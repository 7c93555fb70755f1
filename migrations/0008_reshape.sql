-- Mirror tables follow the shape of their source tables.

alter table tailwater.mirror_table
    -- The source's definition that the mirror table has: {"columns": [{"attnum", "name"}], "leaves": ["schema.name"]}.
    -- By attnum a renamed column is told from one that was dropped and another that was added.
    add shape            jsonb,
    add dropped_columns  text[] not null default '{}',  -- of the mirror table, that the source has no more
    -- The table was added, or changed its shape: it has to be resynced, once the stream has passed here; 0/0: where the
    -- source is at the next start.  Null: nothing of the kind.
    add needs_resync_lsn pg_lsn;

-- Views that read the given one, at any depth: what it takes to make them again, the nearest first.
create function tailwater.dependent_views(of oid)
returns table (oid oid, depth integer, kind "char", name text, definition text, owner name, options text[],
               grants text[], remarks text[])
language sql set search_path = pg_catalog as $$
    with recursive d(oid, depth) as (
        select of, 0
        union
        select r.ev_class, d.depth + 1
          from d join pg_depend p on p.refclassid = 'pg_class'::regclass and p.refobjid = d.oid and p.classid = 'pg_rewrite'::regclass
          join pg_rewrite r on r.oid = p.objid
         where r.ev_class <> d.oid and d.depth < 100)
    select c.oid, max(d.depth), c.relkind, format('%I.%I', n.nspname, c.relname), rtrim(pg_get_viewdef(c.oid), ';'),
           pg_get_userbyid(c.relowner), c.reloptions,
           array(select format('grant %s on %I.%I to %s%s', a.privilege_type, n.nspname, c.relname,
                               case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end,
                               case when a.is_grantable then ' with grant option' else '' end)
                   from aclexplode(c.relacl) a where a.grantee <> c.relowner),
           array(select case when s.objsubid = 0 then format('comment on view %I.%I is %L', n.nspname, c.relname, s.description)
                             else format('comment on column %I.%I.%I is %L', n.nspname, c.relname, t.attname, s.description) end
                   from pg_description s left join pg_attribute t on t.attrelid = s.objoid and t.attnum = s.objsubid
                  where s.classoid = 'pg_class'::regclass and s.objoid = c.oid)
      from d join pg_class c on c.oid = d.oid join pg_namespace n on n.oid = c.relnamespace
     group by c.oid, n.oid order by max(d.depth), c.oid
$$;

-- A column as it was (by attnum on the source), as it is to be, or both.
create type tailwater.reshaped_column as (
    old_attnum integer, old_name name, attnum integer, name name, type text, collate_as text, is_key boolean,
    is_same boolean, is_there boolean);

-- Gives a mirror table, and its live view, the shape that is wanted: {"schema", "name", "relid", "columns": [{"attnum",
-- "name", "type", "bare", "collate_as", "is_key"}], "generated": [names], "key": [names], "leaves": [{"name", "is_new"}]}.
-- Returns what changed, in words, and marks the table for a resync; null: nothing did.
create function tailwater.reshape(of_pipeline text, wanted jsonb)
returns text language plpgsql set search_path = pg_catalog as $$
declare
    m        tailwater.mirror_table;
    rel      regclass;
    live     regclass;
    old      jsonb;
    what     text[] := '{}';
    dropped  text[];
    key_is   text[];
    key_be   text[] := array(select jsonb_array_elements_text(wanted->'key'));
    leaves   jsonb := coalesce((select jsonb_agg(l->>'name' order by l->>'name') from jsonb_array_elements(wanted->'leaves') l), '[]');
    cols     jsonb;
    views    jsonb := '[]';
    must_go  boolean := false;
    c        record;
    v        record;
    spare    text;
    columns  text;
    one      text;
begin
    select * into m from tailwater.mirror_table
     where (pipeline, schema, name) = (of_pipeline, wanted->>'schema', wanted->>'name') for update;
    rel := to_regclass(format('%I.%I', m.mirror_schema, m.mirror_name));
    if m.pipeline is null or rel is null or m.state not in ('indexed', 'ready') then
        return null;
    end if;
    dropped := m.dropped_columns;

    -- What the mirror table has, by the source's attnums.  Another relation's attnums mean nothing: then by name.
    if m.shape is null or m.relid <> (wanted->>'relid')::oid then
        select coalesce(jsonb_agg(jsonb_build_object('attnum', coalesce((w->>'attnum')::int, -a.attnum), 'name', a.attname)), '[]')
          into old
          from pg_attribute a left join jsonb_array_elements(wanted->'columns') w on w->>'name' = a.attname
         where a.attrelid = rel and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
           and a.attname not in ('_lsn', '_deleted_at') and a.attname <> all (dropped);
    else
        old := m.shape->'columns';
    end if;
    if m.relid <> (wanted->>'relid')::oid then
        what := what || text 'it was made anew on the source';
    end if;
    if m.shape is not null and exists (select from jsonb_array_elements(wanted->'leaves') l
                                        where not (m.shape->'leaves') ? (l->>'name') and not (l->>'is_new')::boolean) then
        what := what || text 'a partition was attached';
    end if;
    if m.shape is not null and exists (select from jsonb_array_elements_text(m.shape->'leaves') l where not leaves ? l) then
        what := what || text 'a partition was dropped or detached';
    end if;

    select jsonb_agg(to_jsonb(t)) into cols from (
        select o.attnum as old_attnum, o.name as old_name, w.attnum, w.name, w.type, w.collate_as, w.is_key,
               coalesce(format_type(a.atttypid, a.atttypmod) = w.type or
                        (w.bare and a.atttypmod = -1 and to_regtype(w.type) = a.atttypid), false) as is_same,
               a.attname is not null as is_there
          from jsonb_to_recordset(old) as o(attnum int, name name)
          full join jsonb_to_recordset(wanted->'columns')
               as w(attnum int, name name, type text, bare boolean, collate_as text, is_key boolean) on w.attnum = o.attnum
          left join pg_attribute a on a.attrelid = rel and a.attname = o.name and not a.attisdropped) t;
    key_is := array(select a.attname from pg_index i, unnest(i.indkey) with ordinality k(attnum, nr)
                     join pg_attribute a on a.attrelid = rel and a.attnum = k.attnum
                     where i.indrelid = rel and i.indisprimary order by k.nr);

    select exists (select from jsonb_populate_recordset(null::tailwater.reshaped_column, cols) t where t.attnum is null or (t.old_attnum is not null and not t.is_same))
      into must_go;
    select must_go or exists (select from pg_attribute a where a.attrelid = rel and a.attgenerated <> '' and not a.attisdropped
                                 and not wanted->'generated' ? a.attname::text) into must_go;
    live := case when m.state = 'ready' then to_regclass(format('%I.%I', m.view_schema, m.view_name)) end;

    -- A view whose columns go or change their types is made again, and so is every view over it.
    if must_go and live is not null then
        select coalesce(jsonb_agg(to_jsonb(d) order by d.depth), '[]') into views from tailwater.dependent_views(live) d;
        for v in select * from jsonb_to_recordset(views) as d(oid oid, depth int, kind text, name text) order by depth desc loop
            if v.kind <> 'v' then
                raise exception '% reads the live view %, and cannot be made again', v.name, live
                    using errcode = '2BP01', hint = format('drop %s, then resync the table, and make it again', v.name);
            end if;
            begin
                execute format('drop view %s', v.name);
            exception when others then
                raise exception 'the view % reads the live view %, and cannot be dropped and made again: %', v.name, live, sqlerrm
                    using errcode = '2BP01', hint = 'drop it, or let the role of the mirror be a member of its owner; then resync the table';
            end;
        end loop;
    end if;

    -- The key as it is after renames; its constraint goes where it is another one.
    key_is := array(select coalesce((select t.name::text from jsonb_populate_recordset(null::tailwater.reshaped_column, cols) t where t.old_name = k.name and t.attnum is not null), k.name || ' (gone)')
                      from unnest(key_is) with ordinality k(name, nr) order by k.nr);
    if key_is <> key_be then
        what := what || format('its key is (%s) now', array_to_string(key_be, ', '));
        for one in select conname from pg_constraint where conrelid = rel and contype = 'p' loop
            execute format('alter table %s drop constraint %I', rel, one);
        end loop;
        for one in select a.attname from pg_attribute a where a.attrelid = rel and a.attnum > 0 and a.attnotnull and not a.attisdropped and a.attname <> '_lsn' loop
            execute format('alter table %s alter %I drop not null', rel, one);
        end loop;
    end if;

    for one in select a.attname from pg_attribute a where a.attrelid = rel and a.attgenerated <> '' and not a.attisdropped
                  and not wanted->'generated' ? a.attname::text loop
        execute format('alter table %s drop column %I', rel, one);
        what := what || format('the generated column %s is gone', one);
    end loop;
    -- All names that change go through a spare one, so that two may be swapped.
    for c in select * from jsonb_populate_recordset(null::tailwater.reshaped_column, cols) where old_attnum is not null and is_there and (attnum is null or name <> old_name) loop
        execute format('alter table %s rename column %I to %I', rel, c.old_name, '_tw_' || c.old_attnum);
        if live is not null and not must_go and c.attnum is not null then
            execute format('alter view %s rename column %I to %I', live, c.old_name, '_tw_' || c.old_attnum);
        end if;
    end loop;
    for c in select * from jsonb_populate_recordset(null::tailwater.reshaped_column, cols) where attnum is not null and old_attnum is not null and is_there and name <> old_name loop
        execute format('alter table %s rename column %I to %I', rel, '_tw_' || c.old_attnum, c.name);
        if live is not null and not must_go then
            execute format('alter view %s rename column %I to %I', live, '_tw_' || c.old_attnum, c.name);
        end if;
        what := what || format('the column %s is called %s now', c.old_name, c.name);
    end loop;
    -- What the source has no more stays in the table, under its name if that is free.
    for c in select * from jsonb_populate_recordset(null::tailwater.reshaped_column, cols) where attnum is null and is_there loop
        spare := c.old_name;
        for i in 1..10000 loop
            exit when not exists (select from pg_attribute where attrelid = rel and attname = spare and not attisdropped)
                  and not exists (select from jsonb_populate_recordset(null::tailwater.reshaped_column, cols) t where t.name = spare)
                  and not wanted->'generated' ? spare;
            spare := left(c.old_name, 48) || '_dropped_' || i;
        end loop;
        execute format('alter table %s alter %I drop not null', rel, '_tw_' || c.old_attnum);
        execute format('alter table %s rename column %I to %I', rel, '_tw_' || c.old_attnum, spare);
        dropped := dropped || spare;
        what := what || format('the column %s was dropped', c.old_name);
    end loop;
    -- Another type: converted where that works, else left behind like a dropped column.
    for c in select * from jsonb_populate_recordset(null::tailwater.reshaped_column, cols) where attnum is not null and old_attnum is not null and is_there and not is_same loop
        begin
            execute format('alter table %s alter %I type %s%s using %I::%s', rel, c.name, c.type, coalesce(' ' || c.collate_as, ''), c.name, c.type);
        exception when data_exception or syntax_error_or_access_rule_violation or feature_not_supported or integrity_constraint_violation then
            if c.name = any (key_be) and key_is = key_be then
                raise;
            end if;
            spare := left(c.name, 48) || '_dropped_' || (cardinality(dropped) + 1);
            execute format('alter table %s alter %I drop not null', rel, c.name);
            execute format('alter table %s rename column %I to %I', rel, c.name, spare);
            execute format('alter table %s add column %I %s%s', rel, c.name, c.type, coalesce(' ' || c.collate_as, ''));
            dropped := dropped || spare;
        end;
        what := what || format('the column %s is %s now', c.name, c.type);
    end loop;
    for c in select * from jsonb_populate_recordset(null::tailwater.reshaped_column, cols) where attnum is not null and (old_attnum is null or not is_there) loop
        if c.name::text = any (dropped) then
            spare := left(c.name, 48) || '_dropped_' || (cardinality(dropped) + 1);
            execute format('alter table %s rename column %I to %I', rel, c.name, spare);
            dropped := array_replace(dropped, c.name::text, spare);
        end if;
        execute format('alter table %s add column %I %s%s', rel, c.name, c.type, coalesce(' ' || c.collate_as, ''));
        what := what || format('the column %s was added', c.name);
    end loop;
    if key_is <> key_be then
        -- Rows that cannot have the new key come back with the resync.
        execute format('delete from %s where %s', rel, (select string_agg(quote_ident(k) || ' is null', ' or ') from unnest(key_be) k));
        execute format('delete from %s a using %s b where (%s) and a.ctid < b.ctid', rel, rel,
                       (select string_agg(format('a.%I is not distinct from b.%I', k, k), ' and ') from unnest(key_be) k));
        execute format('alter table %s add primary key (%s)', rel, (select string_agg(quote_ident(k), ', ') from unnest(key_be) k));
    end if;

    if what <> '{}' and live is not null then
        select string_agg(quote_ident(x.name), ', ' order by x.attnum, x.name) into columns
          from (select w->>'name' as name, (w->>'attnum')::int as attnum from jsonb_array_elements(wanted->'columns') w
                union all
                select g->>'name', (g->>'attnum')::int from jsonb_array_elements(wanted->'generated_at') g
                 where exists (select from pg_attribute a where a.attrelid = rel and a.attname = g->>'name' and not a.attisdropped)) x;
        execute format('create or replace view %I.%I as select %s from %s where _deleted_at is null', m.view_schema, m.view_name, columns, rel);
        for v in select * from jsonb_to_recordset(views) as d(depth int, name text, definition text, owner name, options text[], grants text[], remarks text[])
                  order by depth loop
            begin
                if v.depth > 0 then
                    execute format('create view %s%s as %s', v.name,
                                   coalesce(' with (' || array_to_string(v.options, ', ') || ')', ''), v.definition);
                end if;
                foreach one in array v.grants loop
                    execute one;
                end loop;
                foreach one in array v.remarks loop
                    begin
                        execute one;
                    exception when undefined_column then
                        null; -- it went with its column
                    end;
                end loop;
                if v.depth > 0 and v.owner <> current_user then
                    execute format('alter view %s owner to %I', v.name, v.owner);
                end if;
            exception when others then
                raise exception 'the view % reads the live view %.% and cannot be made again: %', v.name, m.view_schema, m.view_name, sqlerrm
                    using errcode = '2BP01', hint = 'change or drop it, then resync the table';
            end;
        end loop;
    end if;

    update tailwater.mirror_table set
        relid = (wanted->>'relid')::oid, key = key_be, dropped_columns = dropped,
        shape = jsonb_build_object('columns', (select jsonb_agg(jsonb_build_object('attnum', w->'attnum', 'name', w->'name'))
                                                 from jsonb_array_elements(wanted->'columns') w), 'leaves', leaves)
     where (pipeline, schema, name) = (m.pipeline, m.schema, m.name);
    if what = '{}' then
        return null;
    end if;
    perform tailwater.mark_for_resync(m.pipeline, m.schema, m.name, array_to_string(what, '; '));
    return array_to_string(what, '; ');
end
$$;

-- The table is left out of the stream until its resync begins.
create function tailwater.mark_for_resync(of_pipeline text, of_schema text, of_name text, reason text)
returns void language sql set search_path = pg_catalog as $$
    update tailwater.mirror_table m set
        needs_resync_lsn = '0/0', quarantine_lsn = coalesce(least(m.quarantine_lsn, k.cursor), k.cursor),
        quarantined_at = coalesce(m.quarantined_at, now()), quarantine_reason = reason, quarantine_sqlstate = null,
        quarantine_xid = null, resync_job = null
      from tailwater.clock k
     where k.pipeline = m.pipeline and (m.pipeline, m.schema, m.name) = (of_pipeline, of_schema, of_name)
$$;
