"""Names come from the source, and none of them is SQL, JSON, YAML or a pattern (P12, P67)."""

import json

import pytest

from lib.compare import quoted
from lib.pipeline import SLOT
from pitfalls.common import STOP, running, wait_until_repaired

# At most 20, so that wal2json is given each by name; short enough for a mirror schema of its own.
NAMES = [
    "Order Lines", "a.b..c", 'it\'s "so"', "back\\slash\\", "Größe_表_😀", "select", "1st",
    " lead and trail ", "{a,b}", "{schema}", "100%s%n%d", "$1 ?:x", "a,b;c--d/*e*/", "*", "wh?t*",
    "new\nline\ttab", "\x01\x1b[31m", '{"k": [1]}', "_lsn_", "!not",
]
# With these there are more than 20 tables: wal2json is given the schemas.
LONG = ["n" * 63, "é" * 31 + "x", "😀" * 15 + "xyz"]


def literal(text):
    return "'" + text.replace("'", "''") + "'"


def pattern(schema, name):
    return f"{quoted(schema)}.{quoted(name)}"


class Shop:
    """A table of each name, in a schema of another, with columns, a type and an index of others."""

    def __init__(self, source, names):
        self.source, self.tables = source, []
        for i, table in enumerate(names):
            schema, key, note, big, kind = (NAMES[(i + n) % len(NAMES)] for n in (1, 2, 3, 4, 5))
            index = names[(i + 6) % len(names)]
            self.tables.append((schema, table, key, note, big))
            if i < len(NAMES):
                source.sql(f"create schema {quoted(schema)}")
                source.sql(f"create type {pattern(schema, kind + ' T')} as enum ({literal(kind)}, 'b')")
            kind = source.value("select format_type(t.oid, null) from pg_type t join pg_namespace n "
                                "on n.oid = typnamespace where typtype = 'e' and nspname = %s", schema)
            columns = ", ".join(f"{quoted(n)} int" for n in names if n not in (key, note, big))
            kind = source.value("select format_type(t.oid, null) from pg_type t join pg_namespace n "
                                "on n.oid = typnamespace where typtype = 'e' and nspname = %s", schema)
            source.sql(f"""
                set search_path = {quoted(schema)};
                create table {quoted(table)} ({quoted(key)} int primary key, {quoted(note)} {kind},
                                              {quoted(big)} text, {columns});
                alter table {quoted(table)} alter {quoted(big)} set storage external;
                create index {quoted(index)} on {quoted(table)} ({quoted(note)});
                insert into {quoted(table)} ({quoted(key)}, {quoted(note)}, {quoted(big)})
                    select i, 'b', repeat('x', 5000) from generate_series(1, 4) i;
                reset search_path
                """)

    @property
    def names(self):
        return [(schema, table) for schema, table, *_ in self.tables]

    def each(self, statement):
        """A statement for every table: {t}, {key}, {note}, {big} stand for its names."""
        with self.source.transaction() as cursor:
            for schema, table, key, note, big in self.tables:
                cursor.execute(statement.format(t=pattern(schema, table), key=quoted(key),
                                                note=quoted(note), big=quoted(big)))


def stored(schema, table):
    return pattern("m " + schema, table)


@pytest.mark.parametrize("how", ["by name", "by schema"])
def test_p67_everything_has_such_a_name(both_plugins, source, mirror, make_pipeline, how):
    shop = Shop(source, NAMES if how == "by name" else NAMES + LONG)
    tables = [pattern(*name) for name in shop.names] if how == "by name" else ["*.*"]
    pipeline = running(make_pipeline, tables=tables, purge={"after": "7d"},
                       mirror={"table_schema": "m {schema}", "readers": ["reports"]})
    pipeline.compare(shop.names)
    assert mirror.value("select count(*) from pg_indexes where schemaname like 'm %' and "
                        "indexdef not like '%UNIQUE%' and indexdef not like '%IS NOT NULL%'") == len(shop.names)
    shop.each("update {t} set {note} = null, {key} = 10 where {key} = 1;"
              "delete from {t} where {key} = 2; insert into {t} ({key}) values (20)")
    pipeline.wait_until_caught_up().compare(shop.names)
    for name in shop.names:
        mirror.sql(f"delete from {stored(*name)} where _deleted_at is null")
        assert mirror.sql(f"select count(*) from {pattern(*name)}", user="reports") == [(0,)]
    shop.each("update {t} set {note} = 'b'")  # a hole in every row that has a large value
    pipeline.wait_until_caught_up()
    wait_until_repaired(pipeline, 3 * len(shop.names))
    pipeline.compare(shop.names)
    # What the verbs say of them.
    said = {(table["schema"], table["name"]) for table in pipeline.ok("status", "--json").json()["tables"]}
    assert said == set(shop.names)
    assert "\x1b" not in pipeline.ok("status").text
    pipeline.settle(shop.names)
    pipeline.ok("purge", "--older-than", "0")
    assert all(mirror.value(f"select count(*) from {stored(*name)} where _deleted_at is not null") == 0
               for name in shop.names)
    pipeline.ok("destroy", "--yes")
    assert mirror.sql("select nspname, relname from pg_class c join pg_namespace n on n.oid = "
                      "relnamespace where nspname !~ '^(pg_|information_schema)'") == []
    assert mirror.sql("select nspname from pg_namespace where nspname !~ '^(pg_|information_schema)'"
                      ) == [("public",)]


def test_p67_columns_in_the_configuration(both_plugins, source, mirror, make_pipeline):
    """exclude, mask, key and indexes name columns and indexes of any name."""
    source.sql("""
        create table t ("a.b" int not null, "k ""1" int not null, "{x}" text, "mask, me" text,
                        "null %s" text, g text generated always as ("a.b" || '%s') stored);
        create unique index "u.k" on t ("a.b", "k ""1");
        create index "i {0}" on t ("{x}");
        create index other on t ("mask, me");
        alter table t replica identity full;
        insert into t values (1, 1, 'x', 'secret', 'n'), (1, 2, 'y', 'secret', 'n');
        """)
    entry = {"name": '"public"."t"', "key": ["k \"1", "a.b"], "exclude": ["{x}"],
             "mask": {"mask, me": "hash", "null %s": None}, "indexes": ["other"]}
    pipeline = running(make_pipeline, [("public", "t")], tables=[entry])
    pipeline.feed(['update t set "mask, me" = \'s2\' where "k ""1" = 2', "insert into t values (2, 1)",
                   'delete from t where "a.b" = 1 and "k ""1" = 1'], "one by one")
    there = source.sql('select "a.b", "k ""1", encode(sha256(convert_to("mask, me", \'UTF8\')), \'hex\'), '
                       "null, g from t order by 1, 2")
    assert mirror.sql("select * from t order by 1, 2") == there
    assert mirror.value("select count(*) from pg_indexes where schemaname = 'mirror_public' "
                        "and indexname in ('other', 'i {0}', 'u.k')") == 1
    pipeline.settle_stopped(compare=False)


@pytest.mark.parametrize("publication", ["Orders, \"all\"", "it's", "back\\slash", "{p} %s", "é" * 31,
                                         "select", "a,b", " x "])
def test_p67_publications(source, make_pipeline, publication):
    source.sql("create table t (id int primary key); insert into t values (1)")
    pipeline = make_pipeline(plugin="pgoutput", source={"publication": publication})
    said = pipeline.verb("check", "--json").json()["findings"]
    remedy = [f["remedy"] for f in said if f["name"] == "source_publication"][0]
    source.sql(remedy.partition(": ")[2], user="postgres")  # what check says to run is run
    pipeline.start().wait_until_caught_up()
    pipeline.feed(["insert into t values (2)"], "one by one")
    pipeline.settle()
    # What it says about one that is in the way is right as well.
    pipeline.ok("destroy", "--yes")
    assert source.value("select count(*) from pg_publication where pubname = %s", publication) in (0, 1)


def test_p67_long_names_of_pipeline_and_slot(both_plugins, source, mirror, make_pipeline):
    """50 bytes are the most for a pipeline, 63 for a slot; temporary slots fit too."""
    source.sql("create table t (id int primary key, a int, big text);"
               "alter table t alter big set storage external;"
               "insert into t select i, 0, repeat('x', 5000) from generate_series(1, 3) i")
    pipeline = running(make_pipeline, name="p" * 50, source={"slot": "s" * 63})
    mirror.sql("delete from mirror_public.t where id = 2")
    pipeline.feed(["update t set a = 1"], "one by one")
    wait_until_repaired(pipeline, 1)
    pipeline.settle()
    pipeline.stop()
    source.sql("select pg_drop_replication_slot(%s)", "s" * 63, user="postgres")
    result = pipeline.verb("run", "--until", "now")
    assert result.code == SLOT and "s" * 63 in result.err
    pipeline.ok("destroy", "--yes")


READERS = ['crm "team"', "it's", "Größe", "select", "a,b", "{r} %s", "1st"]


def test_p67_readers(source, mirror, make_pipeline):
    source.sql("create table t (id int primary key); insert into t values (1)")
    for reader in READERS:
        mirror.sql(f"create role {quoted(reader)} login")
    try:
        pipeline = running(make_pipeline, mirror={"readers": READERS})
        for reader in READERS:
            assert mirror.value("select has_table_privilege(%s, 'public.t', 'select')", reader)
        pipeline.settle()
    finally:
        for reader in READERS:
            mirror.sql(f"drop owned by {quoted(reader)}; drop role {quoted(reader)}")


def test_p67_databases_and_roles(both_plugins, source, mirror, make_pipeline):
    """The replicator's own names, in connection strings and in grants that check prints."""
    role, database = 'tail "water\' x\\', 'Shop "ö\' %s'
    source.sql("create table t (id int primary key, a int); insert into t values (1, 1)")
    for side in (source, mirror):
        side.cluster.sql(f"create role {quoted(role)} login replication")
        side.sql(f"grant usage, create on schema public to {quoted(role)}", user="postgres")
        side.sql(f"grant create on database {side.name} to {quoted(role)}", user="postgres")
        side.close()
        side.cluster.sql(f"alter database {side.name} rename to {quoted(database)}")
    names = source.name, mirror.name
    source.name = mirror.name = database
    try:
        conninfos = {"source": {"conninfo": source.conninfo(role)},
                     "mirror": {"conninfo": mirror.conninfo(role)}}
        pipeline = make_pipeline(**conninfos)
        said = pipeline.verb("check", "--json").json()["findings"]
        grant = [f["remedy"] for f in said if f["name"] == "source_select"][0]
        source.sql(grant.partition(": ")[2])
        pipeline.publish().start().wait_until_caught_up()
        pipeline.feed(["insert into t values (2, 2)", "update t set a = 5 where id = 1"], "one by one")
        assert json.loads(pipeline.ok("status", "--json").out)
        pipeline.settle()
        pipeline.ok("destroy", "--yes")
    finally:
        for side, name in zip((source, mirror), names):
            side.close()
            side.cluster.sql(f"alter database {quoted(database)} rename to {name}")
            side.name = name
            side.sql(f"drop owned by {quoted(role)} cascade; drop role {quoted(role)}", user="postgres")


TYPES = '''
    create schema "My.Schema";
    create type "My.Schema"."Mood ""x""" as enum ('so so', 'it''s', 'a,b', '{c}', 'd"e', 'back\\slash', 'ü', ' ');
    create type "My.Schema"."Addr, 1" as ("the street" text, "no.""" int, "{m}" "My.Schema"."Mood ""x""");
    create domain "My.Schema"."Dom %s" as varchar(20) check (value <> 'x');
    create type "My.Schema"."Range é" as range (subtype = "My.Schema"."Dom %s");
    create table types (id int primary key, e "My.Schema"."Mood ""x""", ea "My.Schema"."Mood ""x"""[],
        c "My.Schema"."Addr, 1", ca "My.Schema"."Addr, 1"[], d "My.Schema"."Dom %s",
        da "My.Schema"."Dom %s"[], r "My.Schema"."Range é");
    '''
VALUES = [
    """'it''s', '{"so so","it''s","a,b","{c}","d\\"e","back\\\\slash",ü," "}',
       '("1, ""Main"" St",7,"d""e")', array['("a,b",1,{c})', null]::"My.Schema"."Addr, 1"[],
       'd "1"', '{"a,b",NULL}', '["a","b")'""",
    "'a,b', '{}', '(,,)', '{}', '', '{\"\"}', 'empty'",
    "null, null, null, null, null, null, null",
    "' ', '{\" \"}', '(\"\",,\" \")', '{\"(,,)\"}', 'ü', '{NULL}', '(,)'",
]


def test_p12_p67_types(both_plugins, source, mirror, make_pipeline):
    """Enum, composite, domain and range types whose names and labels need quotes everywhere."""
    source.sql(TYPES)
    for i, row in enumerate(VALUES):
        source.sql(f"insert into types values ({i}, {row})")
    pipeline = running(make_pipeline)
    pipeline.compare()
    pipeline.feed([*(f"insert into types values ({10 + i}, {row})" for i, row in enumerate(VALUES)),
                   "update types set id = id + 100 where id < 10",
                   "update types set e = 'd\"e', c = row('x', 2, 'ü') where id > 10"], "one by one")
    pipeline.settle()
    pipeline.ok("destroy", "--yes")
    assert mirror.value("select count(*) from pg_type where typname like 'Mood%%'") == 0


def test_p67_a_line_of_the_log_is_one_line(source, mirror, make_pipeline):
    """A name cannot forge a line of the log, nor reach the terminal that shows it."""
    source.sql('create table "a\n2026-01-01T00:00:00.000Z INFO    forged [stopped]" (id int primary key);'
               'create table "b\x1b[31m" (id int)')
    pipeline = make_pipeline(tables=["public.*"], apply=STOP)
    pipeline.run_until_now()
    source.sql('alter table "a\n2026-01-01T00:00:00.000Z INFO    forged [stopped]" add b int')
    pipeline.start()
    assert pipeline.wait_exit() != 0
    assert "forged" in pipeline.this_run()
    assert not any(line.startswith("2026-01-01T00:00:00") for line in pipeline.log.splitlines())
    assert "\x1b" not in pipeline.log
