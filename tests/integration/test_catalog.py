"""The source's catalog: which tables, keys, columns, types and indexes a mirror gets of it."""

import json
import os
import subprocess

import pytest

from lib.pipeline import BINARY

TOOL = os.path.join(os.path.dirname(BINARY), "tests", "integration", "catalog_tool")

CAST, TEXT, INT4, INT8, NUMERIC, STRING = 0, 1, 4, 5, 9, 10  # enum column_wire


@pytest.fixture
def survey(make_pipeline):
    """survey(tables, …): the catalog as JSON, read by the replicator's role."""
    def run(tables=("public.*",), form="survey", **keys):
        pipeline = make_pipeline(tables=list(tables))
        pipeline.keys.update(keys)
        pipeline.write_config()
        done = subprocess.run([TOOL, pipeline.file, form], stdout=subprocess.PIPE, text=True,
                              timeout=60)
        answer = json.loads(done.stdout)
        assert form == "load" or "error" not in answer, answer
        return answer
    return run


@pytest.fixture
def watch(make_pipeline):
    """watch(policy, name, …): the hash of what the pipeline looks at, whose mirror has these tables."""
    def run(policy, *names):
        pipeline = make_pipeline(schema_changes={"default": "apply", "new_table": policy}, tables=["public.*", "public.named"])
        done = subprocess.run([TOOL, pipeline.file, "watch", *names], stdout=subprocess.PIPE, text=True, timeout=60)
        return json.loads(done.stdout)["hash"]
    return run


def find(answer, name, words=""):
    """The findings of a name whose text has the words."""
    return [f for f in answer["findings"]
            if f["name"] == name and words in f["what"] + " " + f["why"]]


def one(answer, name, words=""):
    found = find(answer, name, words)
    assert len(found) == 1, answer["findings"]
    return found[0]


# ---- what is watched ----

def test_tables_that_are_left_out_come_and_go_unseen(source, watch):
    source.sql("create table t (id int primary key); create table gone (id int primary key); create table named (id int primary key)")
    known, seen = ("t", "gone", "named"), []
    for statement in ("select", "create table staging (id int primary key)", "drop table staging", "alter table t add a int",
                      "drop table named; create table named (id int primary key)", "drop table gone",
                      "create table gone (id int primary key)"):
        source.sql(statement)
        seen.append((watch("keep", *known), watch("apply", *known)))
    keep, apply = zip(*seen)
    assert keep[0] == keep[1] == keep[2] and len(set(keep[2:])) == 5
    assert apply[0] != apply[1] and apply[0] == apply[2] and len(set(apply[2:])) == 5


# ---- which tables ----

def test_glob_takes_roots_and_passes_over_the_rest(source, survey):
    source.sql("""
        create table t (id int primary key);
        create unlogged table u (id int primary key);
        create table part (id int, at date, primary key (id, at)) partition by range (at);
        create table part_a partition of part for values from ('2025-01-01') to ('2026-01-01');
        create table part_b partition of part for values from ('2026-01-01') to ('2027-01-01')
            partition by list (id);
        create table part_b1 partition of part_b default;
        create view v as select * from t;
        create materialized view m as select * from v;
        create table nokey (a int);
        """)
    answer = survey()
    assert list(answer["tables"]) == ["public.part", "public.t"]
    part = answer["tables"]["public.part"]
    assert part["partitioned"] and part["leaves"] == [["public", "part_a"], ["public", "part_b1"]]
    assert part["found"] and part["index"] == 0 and answer["tables"]["public.t"]["index"] == 1
    assert answer["views"] == ["m", "v"]
    assert one(answer, "table_kind")["what"].startswith("public.u ")
    assert one(answer, "table_key")["what"].startswith("public.nokey ")
    assert {f["level"] for f in answer["findings"]} == {"warning"}
    assert survey(["*.*"]) == answer, "nothing of the system's"


def test_a_named_table_must_be_usable(source, survey):
    source.sql("""
        create table t (id int primary key);
        create unlogged table u (id int primary key);
        create table part (id int primary key) partition by range (id);
        create table part_a partition of part default;
        create view v as select * from t;
        create materialized view m as select * from v;
        """)
    words = {"v": "it is a view", "m": "materialized view", "part_a": "partition", "u": "unlogged"}
    answer = survey([f"public.{name}" for name in words])
    for name, word in words.items():
        found = one(answer, "table_kind", word)
        assert found["level"] == "error" and found["remedy"] and f"public.{name} " in found["what"]
        assert "tailwater.yaml:" in found["what"]


def test_a_missing_table_names_the_nearest(source, survey):
    source.sql("create table orders (id int primary key); create schema sales;"
               "create table sales.things (id int primary key)")
    answer = survey(["public.ordrs"])
    assert one(answer, "table_missing")["remedy"] == "did you mean public.orders?"
    assert one(answer, "table_none")
    assert one(survey(["public.things"]), "table_missing")["remedy"] == "did you mean sales.things?"
    assert one(survey(["public.*", "nowhere.*"]), "table_pattern")["level"] == "warning"
    refused = survey(["public.ordrs"], form="load")["error"]
    assert refused["kind"] == "findings" and "tailwater.yaml:" in refused["message"]
    assert "public.orders" in refused["hint"]


def test_later_entries_win_key_by_key(source, survey):
    source.sql("create table a (id int primary key, s text); create table b (id int primary key)")
    answer = survey([{"name": "public.*", "mask": {"s": "hash"}, "deletes": "ignore"},
                     {"name": "public.a", "truncate": "stop", "purge_after": "7d"}, "!public.b"])
    assert list(answer["tables"]) == ["public.a"]
    a = answer["tables"]["public.a"]
    assert (a["deletes"], a["truncate"], a["purge_after"]) == (1, 2, 7 * 86400 * 10**6)
    assert a["columns"]["s"]["mask"] == 2


def test_extension_tables_are_not_the_applications(source, survey):
    source.sql("create table spatial (id int primary key); create table t (id int primary key)")
    source.sql("create extension pg_trgm; alter extension pg_trgm add table spatial",
               user="postgres")
    assert list(survey()["tables"]) == ["public.t"]


# ---- keys (P17, P18, P19) ----

KEYS = {
    "": ["id"],
    "alter table t replica identity full": ["id"],
    "alter table t replica identity using index t_b": ["b", "a"],
    "alter table t replica identity nothing": "DEFAULT",
    "alter table t drop constraint t_pkey": 'USING INDEX "t_b"',
    "alter table t drop constraint t_pkey; drop index t_b": "ADD PRIMARY KEY",
    "alter table t drop constraint t_pkey, add primary key (id) deferrable": 'USING INDEX "t_b"',
    "alter table t drop constraint t_pkey, add primary key (id) deferrable; drop index t_b":
        'CREATE UNIQUE INDEX "t_identity" ON {} ("id")',
    "alter table t drop constraint t_pkey, replica identity full": "key: [b, a]",
    "alter table t drop constraint t_pkey, replica identity full; alter table t alter a drop not null":
        "ADD PRIMARY KEY",
    "alter table t replica identity using index t_b; drop index t_b": "REPLICA IDENTITY DEFAULT",
}


def test_keys(source, survey):
    for i, change in enumerate(KEYS):
        source.sql(f"create schema s{i}; set search_path = s{i};"
                   "create table t (id int primary key, a int not null, b int not null, c text);"
                   f"create unique index t_b on t (b, a); {change}")
    answer = survey(["s*.*"])
    for i, (change, expected) in enumerate(KEYS.items()):
        table = answer["tables"].get(f"s{i}.t")
        if isinstance(expected, list):
            assert table and table["keys"] == expected, change
            continue
        assert table is None, change
        remedy = one(answer, "table_key", f"s{i}.t ")["remedy"]
        assert expected.format(f'"s{i}"."t"') in remedy, change
        # What the remedy says works, where it is a statement: afterwards the table is taken.
        if remedy.endswith(";") and "…" not in remedy:
            source.sql(remedy)
            assert f"s{i}.t" in survey([f"s{i}.*"])["tables"], remedy


def test_configured_key(source, survey):
    source.sql("create table t (a int not null, b int not null, c int, unique (b, a));"
               "alter table t replica identity full; create unique index on t (a) where c > 0")
    assert survey([{"name": "public.t", "key": ["a", "b"]}])["tables"]["public.t"]["keys"] == \
        ["b", "a"]
    found = one(survey([{"name": "public.t", "key": ["a"]}]), "table_key")
    assert found["level"] == "error" and found["remedy"] == "say key: [b, a]"
    source.sql("alter table t add primary key (a), replica identity default")
    found = one(survey([{"name": "public.t", "key": ["a", "b"]}]), "table_key")
    assert "replica identity" in found["why"] and "(a)" in found["why"]


def test_partitions_have_identities_of_their_own(source, survey):
    source.sql("""
        create table p (id int, at date, v text, primary key (id, at)) partition by range (at);
        create table p1 partition of p for values from ('2025-01-01') to ('2026-01-01');
        create table p2 (v text, at date not null, id int not null, primary key (id, at));
        alter table p attach partition p2 for values from ('2026-01-01') to ('2027-01-01');
        """)
    assert survey()["tables"]["public.p"]["keys"] == ["id", "at"]
    source.sql("alter table p1 replica identity full")
    assert survey()["tables"]["public.p"]
    source.sql("alter table p1 replica identity nothing")
    found = one(survey(), "table_key", '"p1"')
    source.sql(found["remedy"])
    assert survey()["tables"]["public.p"]
    source.sql("alter table p2 set unlogged")
    assert "SET LOGGED" in one(survey(), "table_key", '"p2"')["remedy"]


BYTEWISE = {
    "int": True, "uuid": True, "text": True, "varchar(9)": True, 'text collate "C"': True,
    "char(4)": True, "bpchar": False, "numeric": False, "float8": False, "interval": False,
    "jsonb": False, "timetz": True, "timestamptz": True, "bytea": True, "inet": True,
    "text[]": True, "numeric[]": False, "int4range": True, "numrange": False, "mood": True,
    "citext": False, "text collate ci": False, "dom": True, "addr": False,
}


def test_bytewise_keys(source, survey):
    """P72: true only where equal values have one text."""
    source.sql("create extension citext", user="postgres")
    source.sql("create type mood as enum ('a'); create domain dom as text; "
               "create type addr as (a int);"
               "create collation ci (provider = icu, locale = 'und-u-ks-level2', "
               "deterministic = false)")
    for i, type_ in enumerate(BYTEWISE):
        source.sql(f"create table t{i} (k {type_} primary key)")
    tables = survey()["tables"]
    assert {type_: tables[f"public.t{i}"]["bytewise"] for i, type_ in enumerate(BYTEWISE)} == BYTEWISE


def test_equality_of_extension_types(source, survey):
    source.sql("create extension citext", user="postgres")
    source.sql("create table t (k citext primary key, i int, a citext[])")
    columns = survey()["tables"]["public.t"]["columns"]
    assert columns["k"]["equality"] == 'OPERATOR("public".=)'
    assert columns["i"]["equality"] == columns["a"]["equality"] == "="


# ---- columns and types ----

TYPES = """
    create schema "We""ird";
    create type public.mood as enum ('sad', 'ok', 'it''s');
    create domain email as varchar(40) check (value like '%@%');
    create domain email2 as email;
    create domain ints as int[];
    create domain dmood as mood;
    create type addr as (street text collate "C", mood mood, mails email[], r regclass,
                         n numeric(8,2));
    create type addrs as (a addr[], m dmood);
    create type span as range (subtype = email, collation = "C");
    create type "We""ird"."T i" as range (subtype = time);
    create table other (id int primary key);
"""

# column: (type there, type here, cast here, wire)
COLUMNS = {
    "big": ("bigint", "bigint", "bigint", INT8),
    "dom": ("email2", "character varying(40)", "character varying", STRING),
    "doms": ("email[]", "character varying(40)[]", "character varying[]", CAST),
    "grid": ("ints", "integer[]", "integer[]", CAST),
    "grids": ("ints[]", "text[]", "text[]", CAST),
    "mood": ("dmood", '"public"."mood"', '"public"."mood"', TEXT),
    "moods": ("dmood[]", '"public"."mood"[]', '"public"."mood"[]', CAST),
    "addr": ("addr", '"public"."addr"', '"public"."addr"', CAST),
    "addrs": ("addrs[]", '"public"."addrs"[]', '"public"."addrs"[]', CAST),
    "span": ("span", '"public"."span"', '"public"."span"', TEXT),
    "spans": ("span_multirange", None, None, TEXT),
    "weird": ('"We""ird"."T i"', '"We""ird"."T i"', '"We""ird"."T i"', TEXT),
    "rel": ("regclass", "text", "text", STRING),
    "rels": ("regtype[]", "text[]", "text[]", CAST),
    "row": ("other", "text", "text", STRING),
    "ch": ("char(5)", "character(5)", "bpchar", STRING),
    "bits": ("bit(3)", "bit(3)", '"bit"', TEXT),
    "ts": ("timestamp(3)", "timestamp(3) without time zone", "timestamp without time zone", 15),
    "num": ("numeric(12,2)", "numeric(12,2)", "numeric", NUMERIC),
    "point": ("point", "point", "point", CAST),
    "box": ("box", "box", "box", CAST),
    "xml": ("xml", "xml", "xml", TEXT),
    "ci": ("citext", "public.citext", "public.citext", TEXT),
    "cis": ("citext[]", "public.citext[]", "public.citext[]", CAST),
    "hs": ("ext.hstore", "ext.hstore", "ext.hstore", TEXT),
}


def test_types(source, mirror, survey):
    source.sql("create extension citext; create schema ext; create extension hstore schema ext;"
               f"grant usage on schema ext to app; grant create on database {source.name} to app",
               user="postgres")
    source.sql(TYPES)
    columns = ", ".join(f'"{name}" {there}' for name, (there, *_) in COLUMNS.items())
    source.sql(f"create table t (id int primary key, {columns})")
    answer = survey(["public.t"])
    columns = answer["tables"]["public.t"]["columns"]
    for name, (_, type_, cast, wire) in COLUMNS.items():
        column = columns[name]
        if type_ is not None:
            assert (column["type"], column["cast"]) == (type_, cast), name
        assert column["wire"] == wire, name
        assert (column["element"] != 0) == (wire not in (CAST, TEXT)), name
    assert sorted(answer["extensions"]) == ["citext", "hstore"]
    assert answer["extensions"]["hstore"] == ["ext", True, "public.t.hs"]
    # grids and row are worth a word, reg* are not.
    assert {f["what"].split()[0] for f in find(answer, "table_type")} == \
        {"public.t.grids", "public.t.row"}
    # The statements work in their order, and the columns after them.
    mirror.sql('create extension citext; create schema ext; create extension hstore schema ext; '
               'create schema "We""ird"')
    for sql in answer["types"]:
        mirror.sql(sql)
    mirror.sql("create table t (%s)" % ", ".join(
        f'"{name}" {c["type"]} {c["collation"] or ""}' for name, c in columns.items()))


def test_types_follow_the_view_schema(source, survey):
    source.sql("create type mood as enum ('a'); create table t (id int primary key, m mood);"
               "create index t_m on t (id) where m = 'a'")
    answer = survey(mirror={"view_schema": "live_{schema}"})
    assert answer["types"] == ['CREATE TYPE "live_public"."mood" AS ENUM (\'a\')']
    assert answer["tables"]["public.t"]["columns"]["m"]["type"] == '"live_public"."mood"'
    assert answer["schemas"] == ["live_public", "mirror_public"]
    assert "type public.mood" in one(answer, "table_index")["why"]


def test_toast_and_nan(source, survey):
    source.sql("create domain dnum as numeric; create table t (id int primary key, a text, b text,"
               "n numeric, d dnum, f float4, i int[], u uuid);"
               "alter table t alter b set storage plain")
    columns = survey()["tables"]["public.t"]["columns"]
    # PLAIN says nothing of the values that were stored before.
    assert [n for n, c in columns.items() if c["toastable"]] == ["a", "b", "n", "d", "i"]
    assert [n for n, c in columns.items() if c["nan"]] == ["n", "f"]


def test_collations(source, survey):
    source.sql("""create collation ci (provider = icu, locale = 'und-u-ks-level2',
                                       deterministic = false);
                  create table t (id int primary key, a text, b text collate "C", c text collate ci,
                                  d text[] collate "POSIX")""")
    answer = survey()
    columns = answer["tables"]["public.t"]["columns"]
    assert [c["collation"] for c in columns.values()] == [
        None, None, 'COLLATE "pg_catalog"."C"', 'COLLATE "public"."ci"',
        'COLLATE "pg_catalog"."POSIX"']
    # C and POSIX are everywhere, and a remedy has to work.
    source.sql("create schema again; set search_path = again; " +
               answer["collations"][0].replace("public.", "again."))
    assert len(answer["collations"]) == 1


def test_exclude_and_mask(source, survey):
    source.sql("create table t (id int primary key, a text, b varchar(3), c int, d text);"
               "create index t_a on t (a); create index t_b on t (b); create index t_bx on t "
               "(lower(b)); create index t_c on t (id) where c > 0; create index t_i on t (id) "
               "include (a)")
    answer = survey([{"name": "public.t", "exclude": ["a"], "mask": {"b": "hash", "c": None}}])
    table = answer["tables"]["public.t"]
    assert list(table["columns"]) == ["id", "b", "c", "d"] and table["excluded"] == ["a"]
    assert table["columns"]["b"]["type"] == "text" and table["columns"]["b"]["mask"] == 2
    assert table["columns"]["c"]["mask"] == 1
    assert list(table["indexes"]) == ["t_b"]
    assert len(find(answer, "table_index")) == 4


WRONG = [
    ({"exclude": ["id"]}, "table_column", "key column"),
    ({"mask": {"id": "hash"}}, "table_column", "key column"),
    ({"mask": {"n": "hash"}}, "table_column", "neither text nor varchar"),
    ({"exclude": ["emial"]}, "table_column", "emial"),
    ({"mask": {"emial": "hash"}}, "table_column", "emial"),
    ({"indexes": ["t_emial"]}, "table_index", "t_emial"),
]


def test_wrong_columns_are_errors(source, survey):
    source.sql("create table t (id int primary key, email text, n int);"
               "create index t_email on t (email)")
    for pattern in ("public.t", "public.*"):
        for entry, name, words in WRONG:
            found = one(survey([{"name": pattern, **entry}]), name, words)
            if "emial" in words:
                assert "email" in found["remedy"] and found["level"] == "error"
            else:
                assert found["level"] == ("warning" if "*" in pattern else "error")


def test_own_column_names(source, survey):
    source.sql("create table t (id int primary key, _lsn text, _deleted_at text)")
    answer = survey(["public.t"])
    assert "exclude: [_lsn]" in one(answer, "table_column")["remedy"]
    answer = survey([{"name": "public.t", "exclude": ["_lsn", "_deleted_at"]}])
    assert list(answer["tables"]["public.t"]["columns"]) == ["id"] and not answer["findings"]


def test_generated_columns(source, survey):
    source.sql("""
        create function slug(text) returns text language sql immutable as 'select lower($1)';
        create table t (id int primary key, a text, x text,
            l text collate "C" generated always as (lower(a)) stored,
            s text generated always as (slug(a)) stored,
            y text generated always as (upper(x)) stored);
        create index t_l on t (l); create index t_s on t (s);
        create table k (id int, a int, g int generated always as (a + 1) stored primary key)""")
    answer = survey([{"name": "public.t", "exclude": ["x"]}, "public.k"])
    table = answer["tables"]["public.t"]
    assert table["generated"] == {"l": [4, "text", 'COLLATE "pg_catalog"."C"', "lower(a)"]}
    assert table["excluded"] == ["x", "l", "s", "y"]
    assert list(table["indexes"]) == ["t_l"]
    assert "function public.slug" in one(answer, "generated_column", '"s"')["why"]
    assert "excluded column" in one(answer, "generated_column", '"y"')["why"]
    assert "generated" in one(answer, "table_column", "key column")["why"]


# ---- indexes ----

def test_indexes(source, survey):
    source.sql('create schema "i n"', user="postgres")
    source.sql('grant all on schema "i n" to app', user="postgres")
    source.sql("""
        create extension if not exists pg_trgm""", user="postgres")
    nulls = " nulls not distinct" if source.cluster.major >= 15 else ""
    source.sql(f"""
        create function slug(text) returns text language sql immutable as 'select lower($1)';
        create table "i n"."t USING b" (id int primary key, a text, b int unique, "c ""d" text);
        create index "x ON y USING z" on "i n"."t USING b" (lower(a) desc nulls last) include (b)
            with (fillfactor = 70) where a is not null;
        create index i2 on "i n"."t USING b" (slug(a));
        create index i3 on "i n"."t USING b" using gin (a gin_trgm_ops);
        create index i4 on "i n"."t USING b" ("c ""d");
        create index i5 on "i n"."t USING b" (id);
        create unique index i6 on "i n"."t USING b" (b){nulls};
        create unique index i7 on "i n"."t USING b" (b)""")
    answer = survey(['"i n".*'])
    table = answer["tables"]["i n.t USING b"]
    expected = {
        "i3": "USING gin (a public.gin_trgm_ops)",
        "i4": 'USING btree ("c ""d")',
        "i6": "USING btree (b)" + nulls.upper(),
        **({"i7": "USING btree (b)"} if nulls else {}),  # else the same as i6
        "x ON y USING z": "USING btree (lower(a) DESC NULLS LAST) INCLUDE (b) WITH "
                          "(fillfactor='70') WHERE (a IS NOT NULL)",
    }
    assert table["indexes"] == expected
    assert "function" in one(answer, "table_index", "i2")["why"]
    assert answer["extensions"]["pg_trgm"] == ["public", False, "i n.t USING b"]
    assert survey(['"i n".*'], mirror={"indexes": "none"})["tables"]["i n.t USING b"]["indexes"] == {}
    answer = survey([{"name": '"i n"."t USING b"', "indexes": ["i4"]}])
    assert list(answer["tables"]["i n.t USING b"]["indexes"]) == ["i4"]
    assert not answer["extensions"] and not answer["findings"]


def test_index_of_a_partitioned_table(source, survey):
    source.sql("create table p (id int primary key, a int) partition by range (id);"
               "create table p1 partition of p default; create index p_a on p (a)")
    assert survey()["tables"]["public.p"]["indexes"] == {"p_a": "USING btree (a)"}


# ---- names and sizes ----

def test_long_and_doubled_names(source, survey):
    source.sql("create table t (id int primary key)")
    answer = survey(mirror={"table_schema": "m" * 57 + "_{schema}"})
    assert "63" in one(answer, "table_name")["why"] and not answer["tables"]
    source.sql("create table u (id int primary key)")
    answer = survey(mirror={"table_schema": "m" * 56 + "_{schema}"})
    assert len(answer["tables"]) == 2  # 63 bytes


def test_two_tables_of_one_name(source, survey):
    source.sql("grant create on database %s to app" % source.name, user="postgres")
    source.sql("create schema s; create table t (id int primary key);"
               "create table s.t (id int primary key)")
    answer = survey(["*.*"], mirror={"table_schema": "raw"})
    assert "public.t and by s.t" in one(answer, "table_name")["why"]


def test_sizes(source, survey):
    source.sql("""
        create table t (id int primary key, a text);
        insert into t select g, repeat('x', 100) from generate_series(1, 2000) g;
        create table p (id int primary key, a text) partition by range (id);
        create table p1 partition of p for values from (0) to (1000);
        create table p2 partition of p default;
        insert into p select * from t""")
    def estimates():
        tables = survey()["tables"]
        return tables["public.t"], tables["public.p"]
    t, p = estimates()
    assert t["pages"] == t["bytes"] // 8192 - 2 or t["pages"] > 30  # with the maps beside it
    assert 1000 < t["rows"] < 6000 and p["pages"] == 0 and 1000 < p["rows"] < 6000
    source.sql("analyze t; analyze p")
    t, p = estimates()
    assert (t["rows"], p["rows"]) == (2000, 2000)
    source.sql("insert into t select g, repeat('x', 100) from generate_series(2001, 4000) g")
    assert 3800 < estimates()[0]["rows"] < 4200


def test_a_schema_change_under_way_is_said(source, survey):
    source.sql("create table t (id int primary key)")
    with source.transaction() as cursor:
        cursor.execute("lock table t in access exclusive mode")
        refused = survey(form="load")["error"]
    assert refused["kind"] == "retry" and "schema change" in refused["hint"]
    assert survey(form="load")["tables"]


def test_a_thousand_tables_cost_as_many_queries_as_one(source, survey):
    source.sql("do $$ begin for i in 1..300 loop execute format("
               "'create table t%s (id int primary key, a text)', i); end loop; end $$")
    assert len(survey()["tables"]) == 300


def test_inheritance(source, survey):
    source.sql("create table a (id int primary key); create table b (primary key (id)) inherits (a)")
    answer = survey()
    assert list(answer["tables"]) == ["public.a", "public.b"]
    assert one(answer, "table_inheritance")["what"].startswith("public.a ")
