-- Changes of the source's tables by kind: each is followed, kept out or refused; and what reads a live view is made again with
-- all that it had, materialized views too.

drop function tailwater.dependent_views(oid);

-- What reads the given view, at any depth: what it takes to make it again, the nearest first.
create function tailwater.dependent_views(of oid)
returns table (oid oid, depth integer, kind "char", name text, options text, definition text, owner name, is_populated boolean,
               parts text[], privileges text[], remarks text[])
language sql set search_path = pg_catalog as $$
    with recursive d(oid, depth) as (
        select of, 0
        union
        select r.ev_class, d.depth + 1
          from d join pg_depend p on p.refclassid = 'pg_class'::regclass and p.refobjid = d.oid and p.classid = 'pg_rewrite'::regclass
          join pg_rewrite r on r.oid = p.objid
         where r.ev_class <> d.oid and d.depth < 100),
    v(oid, depth) as (select d.oid, max(d.depth) from d group by d.oid)
    select c.oid, v.depth, c.relkind, q.name, w.options,
           case c.relkind when 'v' then format('create view %s%s as %s', q.name, w.options, rtrim(pg_get_viewdef(c.oid), ';'))
                          when 'm' then format('create materialized view %s using %I%s%s as %s with no data', q.name, a.amname, w.options,
                                               ' tablespace ' || quote_ident(t.spcname), rtrim(pg_get_viewdef(c.oid), ';')) end,
           pg_get_userbyid(c.relowner), c.relispopulated,
           -- What fails fails the whole; in this order.
           array(select pg_get_indexdef(i.indexrelid) from pg_index i where i.indrelid = c.oid order by i.indexrelid)
           || array(select format('alter index %I.%I set tablespace %I', n.nspname, x.relname, s.spcname)
                      from pg_index i join pg_class x on x.oid = i.indexrelid join pg_tablespace s on s.oid = x.reltablespace
                     where i.indrelid = c.oid)
           || array(select format('alter materialized view %s cluster on %I', q.name, x.relname)
                      from pg_index i join pg_class x on x.oid = i.indexrelid where i.indrelid = c.oid and i.indisclustered)
           || array(select format('alter index %I.%I alter column %s set statistics %s', n.nspname, x.relname, b.attnum, b.attstattarget)
                      from pg_index i join pg_class x on x.oid = i.indexrelid join pg_attribute b on b.attrelid = x.oid
                     where i.indrelid = c.oid and b.attstattarget >= 0)
           || array(select pg_get_statisticsobjdef(s.oid) from pg_statistic_ext s where s.stxrelid = c.oid order by s.oid)
           || array(select pg_get_ruledef(r.oid) from pg_rewrite r where r.ev_class = c.oid and r.rulename <> '_RETURN' order by r.oid)
           || array(select pg_get_triggerdef(g.oid) from pg_trigger g where g.tgrelid = c.oid and not g.tgisinternal order by g.oid)
           || array(select format('comment on index %I.%I is %L', n.nspname, x.relname, s.description)
                      from pg_index i join pg_class x on x.oid = i.indexrelid
                      join pg_description s on s.classoid = 'pg_class'::regclass and s.objoid = x.oid and s.objsubid = 0
                     where i.indrelid = c.oid),
           -- All of them, the owner's too: what was revoked is not there.
           array(select format('grant %s on %s to %s%s', g.privilege_type, q.name,
                               case when g.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(g.grantee)) end,
                               case when g.is_grantable then ' with grant option' else '' end)
                   from aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) g),
           -- What may go with its column.
           array(select case when s.objsubid = 0 then format('comment on %sview %s is %L', case c.relkind when 'm' then 'materialized ' else '' end, q.name, s.description)
                             else format('comment on column %s.%I is %L', q.name, b.attname, s.description) end
                   from pg_description s left join pg_attribute b on b.attrelid = s.objoid and b.attnum = s.objsubid
                  where s.classoid = 'pg_class'::regclass and s.objoid = c.oid)
           || array(select format('grant %s (%I) on %s to %s%s', g.privilege_type, b.attname, q.name,
                                  case when g.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(g.grantee)) end,
                                  case when g.is_grantable then ' with grant option' else '' end)
                      from pg_attribute b, aclexplode(b.attacl) g where b.attrelid = c.oid and b.attnum > 0 and not b.attisdropped)
           || array(select format('alter view %s alter %I set default %s', q.name, b.attname, pg_get_expr(f.adbin, f.adrelid))
                      from pg_attrdef f join pg_attribute b on b.attrelid = f.adrelid and b.attnum = f.adnum where f.adrelid = c.oid)
           || array(select format('alter materialized view %s alter %I set statistics %s', q.name, b.attname, b.attstattarget)
                      from pg_attribute b where c.relkind = 'm' and b.attrelid = c.oid and b.attnum > 0 and not b.attisdropped and b.attstattarget >= 0)
           || array(select format('alter materialized view %s alter %I set (%s)', q.name, b.attname, o.option)
                      from pg_attribute b, unnest(b.attoptions) as o(option)
                     where c.relkind = 'm' and b.attrelid = c.oid and b.attnum > 0 and o.option like 'n\_distinct%')
           || array(select format('alter statistics %I.%I set statistics %s', u.nspname, s.stxname, s.stxstattarget)
                      from pg_statistic_ext s join pg_namespace u on u.oid = s.stxnamespace
                     where s.stxrelid = c.oid and s.stxstattarget >= 0)
           || array(select format('comment on statistics %I.%I is %L', u.nspname, s.stxname, obj_description(s.oid, 'pg_statistic_ext'))
                      from pg_statistic_ext s join pg_namespace u on u.oid = s.stxnamespace
                     where s.stxrelid = c.oid and obj_description(s.oid, 'pg_statistic_ext') is not null)
           || array(select format('alter statistics %I.%I owner to %I', u.nspname, s.stxname, pg_get_userbyid(s.stxowner))
                      from pg_statistic_ext s join pg_namespace u on u.oid = s.stxnamespace
                     where s.stxrelid = c.oid and pg_get_userbyid(s.stxowner) <> current_user)
           || array(select format('security label for %I on %s is %L', l.provider,
                                  case when l.objsubid > 0 then format('column %s.%I', q.name, b.attname)
                                       when c.relkind = 'm' then 'materialized view ' || q.name
                                       else 'view ' || q.name end, l.label)
                      from pg_seclabel l left join pg_attribute b on b.attrelid = l.objoid and b.attnum = l.objsubid
                     where l.classoid = 'pg_class'::regclass and l.objoid = c.oid)
      from v join pg_class c on c.oid = v.oid join pg_namespace n on n.oid = c.relnamespace
      left join pg_am a on a.oid = c.relam left join pg_tablespace t on t.oid = c.reltablespace,
      lateral (select format('%I.%I', n.nspname, c.relname)) as q(name),
      lateral (select coalesce(' with (' || string_agg(x.option, ', ') || ')', '')
                 from (select unnest(c.reloptions)
                       union all
                       select 'toast.' || unnest(k.reloptions) from pg_class k where k.oid = c.reltoastrelid) as x(option)) as w(options)
$$;

-- Materialized views that were filled, and were made again without their rows.  They are filled after the resync, those that
-- others read first, in transactions of their own: neither reports nor the pipeline wait for a REFRESH.
create table tailwater.unfilled_view (
    pipeline text not null references tailwater.pipeline on delete cascade,
    name     text not null, -- with its schema, quoted
    depth    integer not null,
    primary key (pipeline, name)
);

-- The next one of these, quoted; null: none is left.
create function tailwater.next_unfilled_view(of_pipeline text)
returns text language plpgsql set search_path = pg_catalog as $$
declare
    one text;
begin
    -- Somebody dropped it, or was faster.
    delete from tailwater.unfilled_view u where u.pipeline = of_pipeline
       and not exists (select from pg_class c where c.oid = to_regclass(u.name) and c.relkind = 'm' and not c.relispopulated);
    select u.name into one from tailwater.unfilled_view u where u.pipeline = of_pipeline order by u.depth, u.name limit 1;
    return one;
end
$$;

-- The privileges of a view that was just made are those that default privileges say, until they are those that it had.
create function tailwater.restore_privileges(name text, privileges text[])
returns void language plpgsql set search_path = pg_catalog as $$
declare
    one text;
begin
    for one in select distinct case when g.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(g.grantee)) end
                 from pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) g
                where c.oid = to_regclass(name) loop
        execute format('revoke all on %s from %s cascade', name, one);
    end loop;
    foreach one in array privileges loop
        execute one;
    end loop;
end
$$;

alter type tailwater.reshaped_column add attribute old_type text;

-- Is every value of the old type one of the new, written alike?  Types as format_type() has them.
create function tailwater.is_wider(old text, new text)
returns boolean language sql immutable set search_path = pg_catalog as $$
    select coalesce((t.a, t.b) in (('smallint', 'integer'), ('smallint', 'bigint'), ('integer', 'bigint'), ('real', 'double precision'),
                                   ('character varying', 'text'))
                    or (t.a = t.b and t.a in ('character varying', 'bit varying', 'numeric', 'time without time zone', 'time with time zone',
                                              'timestamp without time zone', 'timestamp with time zone')
                        and t.am is not null and (t.bm is null or (t.bm[1] >= t.am[1] and t.bm[2] is not distinct from t.am[2]))), false)
      from (select regexp_replace(old, '\([0-9,-]+\)', ''), regexp_replace(new, '\([0-9,-]+\)', ''),
                   string_to_array(substring(old from '\(([0-9,-]+)\)'), ',')::int[],
                   string_to_array(substring(new from '\(([0-9,-]+)\)'), ',')::int[]) as t(a, b, am, bm)
$$;

-- A name for a column of the mirror table that another takes the name from.
create function tailwater.spare_column(rel regclass, of_name text, wanted jsonb)
returns text language sql set search_path = pg_catalog as $$
    select x.name from generate_series(1, 10000) i, lateral (select left(of_name, 48) || '_dropped_' || i) as x(name)
     where not exists (select from pg_attribute a where a.attrelid = rel and a.attname = x.name and not a.attisdropped)
       and not exists (select from jsonb_array_elements(wanted->'columns') w where w->>'name' = x.name)
       and not wanted->'generated' ? x.name
     order by i limit 1
$$;

-- Gives a mirror table, and its live view, the shape that is wanted: {"schema", "name", "relid", "columns": [{"attnum",
-- "name", "type", "bare", "collate_as", "is_key"}], "generated": [names], "key": [names], "leaves": [{"name", "is_new"}], "policies": {kind: "apply" | "stop" | "keep"}}.
-- Returns what changed, in words, and marks the table for a resync; null: nothing did.
create or replace function tailwater.reshape(of_pipeline text, wanted jsonb)
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
    policies jsonb := coalesce(wanted->'policies', '{}');
    is_anew  boolean;
    kept     jsonb;
    names    text[];
    options  text := '';
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
    is_anew := m.relid <> (wanted->>'relid')::oid;
    if is_anew then
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
               format_type(a.atttypid, a.atttypmod) as old_type, coalesce(format_type(a.atttypid, a.atttypmod) = w.type or
                        (w.bare and a.atttypmod = -1 and to_regtype(w.type) = a.atttypid), false) as is_same,
               a.attname is not null as is_there
          from jsonb_to_recordset(old) as o(attnum int, name name)
          full join jsonb_to_recordset(wanted->'columns')
               as w(attnum int, name name, type text, bare boolean, collate_as text, is_key boolean) on w.attnum = o.attnum
          left join pg_attribute a on a.attrelid = rel and a.attname = o.name and not a.attisdropped) t;
    key_is := array(select a.attname from pg_index i, unnest(i.indkey) with ordinality k(attnum, nr)
                     join pg_attribute a on a.attrelid = rel and a.attnum = k.attnum
                     where i.indrelid = rel and i.indisprimary order by k.nr);

    -- The key as it is after renames.
    key_is := array(select coalesce((select t.name::text from jsonb_populate_recordset(null::tailwater.reshaped_column, cols) t where t.old_name = k.name and t.attnum is not null), k.name || ' (gone)')
                      from unnest(key_is) with ordinality k(name, nr) order by k.nr);

    -- Nothing is done of what the configuration does not let happen.
    select x.kind, x.words into c from (
        select 1 as nr, 'recreate_table' as kind, 'it was made anew' as words where is_anew
        union all select 2, 'partitions', w from unnest(what) w where w like 'a partition%'
        union all select 3, 'change_key', format('its key is (%s)', array_to_string(key_be, ', ')) where key_is <> key_be
        union all
        select 4, t.kind, t.words from (
            select case when attnum is null then case when is_there then 'drop_column' end
                        when old_attnum is null or not is_there then 'add_column'
                        when name <> old_name then 'rename_column'
                        when not is_same then case when tailwater.is_wider(old_type, type) then 'widen_type' else 'change_type' end end,
                   case when attnum is null then format('the column %s was dropped', old_name)
                        when old_attnum is null or not is_there then format('the column %s was added', name)
                        when name <> old_name then format('the column %s is called %s', old_name, name)
                        else format('the column %s was %s and is %s', name, old_type, type) end
              from jsonb_populate_recordset(null::tailwater.reshaped_column, cols)
            union all
            -- One that was renamed may have another type besides.
            select case when tailwater.is_wider(old_type, type) then 'widen_type' else 'change_type' end,
                   format('the column %s was %s and is %s', name, old_type, type)
              from jsonb_populate_recordset(null::tailwater.reshaped_column, cols)
             where attnum is not null and old_attnum is not null and is_there and not is_same and name <> old_name
            union all
            select 'drop_column', format('the generated column %s was dropped', a.attname) from pg_attribute a
             where a.attrelid = rel and a.attgenerated <> '' and not a.attisdropped and not wanted->'generated' ? a.attname::text) as t(kind, words)
         where not is_anew and t.kind is not null) x
     where policies->>x.kind = 'stop' order by x.nr, x.words limit 1;
    if found then
        raise exception '% on the source, and schema_changes.% is stop', c.words, c.kind
            using errcode = 'TW020', hint = format('set schema_changes.%s to apply and reload (SIGHUP) or restart; or change the source back', c.kind);
    end if;

    -- Columns that the source has no more and the live view shows nevertheless: from before, and now.
    select coalesce(jsonb_agg(k), '[]') into kept from jsonb_array_elements(m.shape->'kept') k
     where policies->>'drop_column' <> 'apply' and not is_anew and (k->>'name') = any (dropped)
       and exists (select from pg_attribute a where a.attrelid = rel and a.attname = k->>'name' and not a.attisdropped);
    for one in select k->>'name' from jsonb_array_elements(m.shape->'kept') k where not kept @> jsonb_build_array(k) loop
        what := what || format('the column %s leaves the live view', one);
    end loop;
    select kept || coalesce(jsonb_agg(jsonb_build_object('attnum', old_attnum, 'name', old_name)), '[]') into kept
      from jsonb_populate_recordset(null::tailwater.reshaped_column, cols)
     where attnum is null and is_there and old_attnum > 0 and policies->>'drop_column' = 'keep' and not is_anew;
    -- Who needs the name gets it.
    select coalesce(jsonb_agg(k), '[]') into kept from jsonb_array_elements(kept) k
     where not wanted->'generated' ? (k->>'name') and not exists (select from jsonb_array_elements(wanted->'columns') w where w->>'name' = k->>'name');

    select coalesce(array_agg(x.name order by x.attnum, x.name), '{}') into names
      from (select w->>'name' as name, (w->>'attnum')::int as attnum from jsonb_array_elements(wanted->'columns') w
            union all
            select k->>'name', (k->>'attnum')::int from jsonb_array_elements(kept) k
            union all
            select g->>'name', (g->>'attnum')::int from jsonb_array_elements(wanted->'generated_at') g
             where exists (select from pg_attribute a where a.attrelid = rel and a.attname = g->>'name' and a.attgenerated <> ''
                              and not a.attisdropped)) x;
    select exists (select from jsonb_populate_recordset(null::tailwater.reshaped_column, cols) t where t.attnum is not null and t.old_attnum is not null and not t.is_same)
      into must_go;
    select must_go or exists (select from pg_attribute a where a.attrelid = rel and a.attgenerated <> '' and not a.attisdropped
                                 and not wanted->'generated' ? a.attname::text) into must_go;
    live := case when m.state = 'ready' then to_regclass(format('%I.%I', m.view_schema, m.view_name)) end;
    -- Columns may be added at a view's end and renamed, and nothing else.  A column is the one of the mirror table, not its
    -- name: where that is taken over by another, the view shows something else.
    must_go := must_go or exists (
        select from (select coalesce((select t.name from jsonb_populate_recordset(null::tailwater.reshaped_column, cols) t
                                       where t.old_name = a.attname and t.attnum is not null and t.is_there),
                                     case when exists (select from jsonb_array_elements(kept) k where k->>'name' = a.attname)
                                               or exists (select from pg_attribute g where g.attrelid = rel and g.attname = a.attname
                                                             and g.attgenerated <> '' and not g.attisdropped
                                                             and wanted->'generated' ? g.attname::text)
                                          then a.attname end) as name,
                            row_number() over (order by a.attnum) as nr
                       from pg_attribute a where a.attrelid = live and a.attnum > 0 and not a.attisdropped) shown
         where shown.name is null or shown.name is distinct from names[shown.nr]);
    select coalesce(' with (' || array_to_string(o.reloptions, ', ') || ')', '') into options from pg_class o where o.oid = live;

    -- A view whose columns go or change their types is made again, and so is every view over it.
    if must_go and live is not null then
        select coalesce(jsonb_agg(to_jsonb(d) order by d.depth), '[]') into views from tailwater.dependent_views(live) d;
        for v in select * from jsonb_to_recordset(views) as d(oid oid, depth int, kind text, name text) order by depth desc loop
            if v.kind not in ('v', 'm') then
                raise exception '% reads the live view %, and cannot be made again', v.name, live
                    using errcode = 'TW020', hint = format('drop %s, reload (SIGHUP) or restart, and make it again', v.name);
            end if;
            begin
                execute format('drop %s view %s', case v.kind when 'm' then 'materialized' end, v.name);
            exception
            when lock_not_available or object_in_use or deadlock_detected or serialization_failure then
                raise; -- it may work the next time
            when others then
                raise exception 'the view % reads the live view %, and cannot be dropped and made again: %', v.name, live, sqlerrm
                    using errcode = 'TW020', hint = format('drop %s, or let %I be a member of its owner (GRANT owner TO %I); then reload (SIGHUP) or restart', v.name, current_user, current_user);
            end;
        end loop;
    end if;

    -- The key's constraint goes where it is another one.
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
    -- A column that the source had once gives way to one that has its name now.
    for c in select t.name from jsonb_populate_recordset(null::tailwater.reshaped_column, cols) t
              where t.attnum is not null and t.name::text = any (dropped) loop
        spare := tailwater.spare_column(rel, c.name, wanted);
        execute format('alter table %s rename column %I to %I', rel, c.name, spare);
        dropped := array_replace(dropped, c.name::text, spare);
    end loop;
    -- All names that change go through a spare one, so that two may be swapped.
    for c in select * from jsonb_populate_recordset(null::tailwater.reshaped_column, cols) where old_attnum is not null and is_there
                and (attnum is null and not kept @> jsonb_build_array(jsonb_build_object('attnum', old_attnum, 'name', old_name)) or name <> old_name) loop
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
    for c in select *, kept @> jsonb_build_array(jsonb_build_object('attnum', old_attnum, 'name', old_name)) as is_kept
               from jsonb_populate_recordset(null::tailwater.reshaped_column, cols) where attnum is null and is_there loop
        if c.is_kept then
            execute format('alter table %s alter %I drop not null', rel, c.old_name);
            dropped := dropped || c.old_name::text;
            what := what || format('the column %s was dropped; the live view goes on showing what it had', c.old_name);
            continue;
        end if;
        spare := c.old_name;
        if exists (select from pg_attribute where attrelid = rel and attname = spare and not attisdropped)
           or exists (select from jsonb_array_elements(wanted->'columns') w where w->>'name' = spare) or wanted->'generated' ? spare then
            spare := tailwater.spare_column(rel, c.old_name, wanted);
        end if;
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
            spare := tailwater.spare_column(rel, c.name, wanted);
            execute format('alter table %s alter %I drop not null', rel, c.name);
            execute format('alter table %s rename column %I to %I', rel, c.name, spare);
            execute format('alter table %s add column %I %s%s', rel, c.name, c.type, coalesce(' ' || c.collate_as, ''));
            dropped := dropped || spare;
        end;
        what := what || format('the column %s is %s now', c.name, c.type);
    end loop;
    for c in select * from jsonb_populate_recordset(null::tailwater.reshaped_column, cols) where attnum is not null and (old_attnum is null or not is_there) loop
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
        select string_agg(quote_ident(x.name), ', ' order by x.nr) into columns from unnest(names) with ordinality x(name, nr);
        execute format('create or replace view %I.%I%s as select %s from %s where _deleted_at is null',
                       m.view_schema, m.view_name, options, columns, rel);
        for v in select * from jsonb_to_recordset(views)
                               as d(depth int, kind text, name text, definition text, owner name, is_populated boolean,
                                    parts text[], privileges text[], remarks text[])
                  order by depth loop
            begin
                if v.depth > 0 then
                    execute v.definition;
                end if;
                foreach one in array v.parts loop
                    execute one;
                end loop;
                if v.owner <> current_user then
                    execute format('alter %s view %s owner to %I', case v.kind when 'm' then 'materialized' end, v.name, v.owner);
                end if;
                perform tailwater.restore_privileges(v.name, v.privileges);
                foreach one in array v.remarks loop
                    begin
                        execute one;
                    exception when undefined_column then
                        null; -- it went with its column
                    end;
                end loop;
                if v.kind = 'm' and v.is_populated then
                    insert into tailwater.unfilled_view values (m.pipeline, v.name, v.depth)
                        on conflict (pipeline, name) do update set depth = greatest(unfilled_view.depth, excluded.depth);
                end if;
            exception
            when lock_not_available or object_in_use or deadlock_detected or serialization_failure then
                raise;
            when others then
                raise exception 'the view % reads the live view %.% and cannot be made again: %', v.name, m.view_schema, m.view_name, sqlerrm
                    using errcode = 'TW020', hint = format('change or drop %s, then reload (SIGHUP) or restart', v.name);
            end;
        end loop;
    end if;

    update tailwater.mirror_table set
        relid = (wanted->>'relid')::oid, key = key_be, dropped_columns = dropped,
        shape = jsonb_build_object('columns', (select jsonb_agg(jsonb_build_object('attnum', w->'attnum', 'name', w->'name'))
                                                 from jsonb_array_elements(wanted->'columns') w), 'leaves', leaves, 'kept', kept)
     where (pipeline, schema, name) = (m.pipeline, m.schema, m.name);
    if what = '{}' and m.quarantine_sqlstate = 'TW020' and m.resync_job is null then
        what := what || text 'there is nothing left of what it could not follow';
    end if;
    if what = '{}' then
        return null;
    end if;
    perform tailwater.mark_for_resync(m.pipeline, m.schema, m.name, array_to_string(what, '; '));
    return array_to_string(what, '; ');
end
$$;
