"""Every type there is, value by value the same on both sides: after the copy, and after each kind of change.

The tables are wide, a column per type and a row per sample, so that a few statements move
everything: samples.py has the values.  What is compared is what the types' output functions say,
and their send functions where the type is the same on both sides.
"""

import io

import psycopg2
import pytest

import samples
from lib import wait
from lib.compare import quoted


class Table:
    """A table with a column per (type, samples)."""

    def __init__(self, name, columns):
        self.name = name
        self.types = [kind for kind, _ in columns]
        self.values = [values for _, values in columns]
        self.names = [f"c{i}" for i in range(len(columns))]
        self.height = max(len(values) for values in self.values)

    def create(self, source):
        listed = ", ".join(f"{name} {kind}" for name, kind in zip(self.names, self.types))
        source.sql(f"create table {self.name} (id int primary key, n int not null default 0, {listed})")

    def insert(self, source, offset):
        """A row per sample, numbered from offset, and one of nulls."""
        rows = [f"({offset + row}, " + ", ".join(
            f"({values[row % len(values)]})::{kind}" for kind, values in zip(self.types, self.values)) + ")"
            for row in range(self.height)]
        source.sql(f"insert into {self.name} (id, {', '.join(self.names)}) values " + ", ".join(rows),
                   user="postgres")
        nullable = [name for name, kind in zip(self.names, self.types) if kind != "kinds.dtext"]
        source.sql(f"insert into {self.name} (id, {', '.join(nullable)}) values "
                   f"({offset - 1}, {', '.join(['null'] * len(nullable))})", user="postgres")

    def multiply(self, source, times):
        """So many more rows that they take the bulk's way."""
        source.sql(f"insert into {self.name} select id + 1000 * g, n, {', '.join(self.names)} from "
                   f"{self.name}, generate_series(1, {times}) g where id < 1000", user="postgres")

    def rotate(self, source):
        """Every row of the first samples gets all values of another."""
        assigned = ", ".join(f"{name} = o.{name}" for name in self.names)
        source.sql(f"update {self.name} t set {assigned} from {self.name} o where t.id between 10 and "
                   f"{8 + self.height} and o.id = t.id + 1", user="postgres")


def by_type(catalog):
    """(type, samples) of a dictionary, in its order."""
    return list(catalog.items())


def array_samples(kind, values):
    """Arrays of samples: NULL elements, two dimensions, lower bounds, none."""
    one, two = (f"({v})::{kind}" for v in (values[0], values[1 % len(values)]))
    few = ", ".join(f"({v})::{kind}" for v in values[:12])
    return [f"array[{one}, null, {two}]", "'{}'", f"array[{few}]", f"array[[{one}, {two}], [{two}, null]]",
            f"array_fill({two}, array[2, 1, 2], array[-1, 0, 7])"]


NO_ARRAY = ("kinds.dtext", "kinds.nothing")  # NOT NULL; {"()"} of nothing: PostgreSQL reads no such array


def make_extensions(source, mirror, *more):
    """What both servers have of samples.EXTENSIONS and more; the names."""
    query = "select name from pg_available_extensions"
    there, here = ({row[0] for row in database.sql(query)} for database in (source, mirror))
    names = [name for name in (*samples.EXTENSIONS, *more) if name in there & here]
    for database in (source, mirror):
        for name in names:
            database.sql(f'create extension "{name}"', user="postgres")
    return names


def supported(catalog, source, mirror):
    """The types and values that both servers have: older ones lack some, and some are built without libxml."""
    found, oldest = {}, min(source.cluster.major, mirror.cluster.major)
    for kind, values in catalog.items():
        if source.value("select to_regtype(%s) is not null", plain(kind)) and (
                kind != "xml" or has_xml(source) and has_xml(mirror)):
            found[kind] = [value for value in values if samples.SINCE.get(value, 0) <= oldest]
    return found


def has_xml(database):
    try:
        return bool(database.value("select '<a/>'::xml::text"))
    except psycopg2.errors.FeatureNotSupported:
        return False


def arrays_of(catalog, source):
    """Those that have an array type and a value."""
    found = []
    for kind, values in catalog.items():
        exists = source.value("select typarray <> 0 from pg_type where oid = %s::regtype", plain(kind))
        if exists and kind not in NO_ARRAY and values[0] != "null" and values[-1] != "null":
            found.append((f"{kind}[]", array_samples(kind, values)))
    return found


def plain(kind):
    """Without a modifier, which regtype's input does not take."""
    return kind.partition("(")[0] + kind.partition(")")[2]


def copied(database, query, binary):
    """As Tailwater's own sessions see it: names of other schemas than pg_catalog's are qualified."""
    out = io.BytesIO()
    with database.connect("postgres") as connection, connection.cursor() as cursor:
        cursor.execute("set search_path = pg_catalog")
        cursor.copy_expert(f"copy ({query}) to stdout with (format {'binary' if binary else 'text'})", out)
    return out.getvalue()


def comparable(source, mirror, table):
    """The columns whose binary form means the same on both sides: one built-in type."""
    query = """select attname, atttypid::oid from pg_attribute a join pg_type t on t.oid = atttypid
                where attrelid = %s::regclass and attnum > 0 and not attisdropped
                  and typsend <> 0 and atttypid < 16384 and typtype <> 'c'"""
    theirs = dict(source.sql(query, table, user="postgres"))
    ours = dict(mirror.sql(query, table))
    # anyarray_send and the like exist for elements that cannot be sent.
    unsendable = source.sql("select array_agg(typarray) from pg_type where typsend = 0")[0][0]
    return [name for name in theirs if ours.get(name) == theirs[name] and theirs[name] not in unsendable]


def differing(source, mirror, table, names, query, binary):
    found = []
    for name in names:
        one = query.format(quoted(name))
        if copied(source, one, binary) != copied(mirror, one, binary):
            there, here = (database.sql(f"select format_type(atttypid, atttypmod) from pg_attribute where attrelid"
                                        f" = '{table}'::regclass and attname = %s", name, user="postgres")[0][0]
                           for database in (source, mirror))
            lines = [(a, b) for a, b in zip(copied(source, one, False).split(b"\n"),
                                            copied(mirror, one, False).split(b"\n")) if a != b]
            found.append(f"{table}.{name}, {there} ({here} on the mirror){' in binary' if binary else ''}: " +
                         "; ".join(f"{a[:120]} is {b[:120]}" for a, b in lines[:3]))
    return found


def same(source, mirror, *tables):
    """Fail unless every value of the tables is the same on both sides, in text and in binary."""
    found = []
    for table in tables:
        names = [row[0] for row in source.sql(
            "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not "
            "attisdropped order by attnum", table, user="postgres")]
        for binary, chosen in ((False, names), (True, comparable(source, mirror, table))):
            query = f"select {{}} from public.{table} order by id"
            every = query.format(", ".join(quoted(name) for name in chosen))
            if copied(source, every, binary) != copied(mirror, every, binary):
                assert source.value(f"select count(*) from {table}", user="postgres") == mirror.value(
                    f"select count(*) from {table}"), f"{table} has other rows"
                found += differing(source, mirror, table, chosen, query, binary)
    assert not found, "\n".join(found)


def settled(pipeline):
    """Caught up, and nothing left to ask or to fetch."""
    pipeline.wait_until_caught_up()
    wait.until(lambda: pipeline.mirror.value(
        "select not exists (select from tailwater.repair) and not exists (select from tailwater.doubt)"),
        lambda: f"nothing left to repair\n{pipeline.log_tail()}")


def through_everything(source, mirror, pipeline, tables, bulk=True):
    names = [table.name for table in tables]
    for table in tables:
        table.create(source)
        table.insert(source, 10)
    pipeline.publish()
    pipeline.start().wait_until_caught_up()
    same(source, mirror, *names)
    for table in tables:
        table.insert(source, 110)
    settled(pipeline)
    same(source, mirror, *names)
    for table in tables:
        table.rotate(source)
    settled(pipeline)
    same(source, mirror, *names)
    for table in tables:
        source.sql(f"update {table.name} set n = n + 1")
        if bulk:
            table.multiply(source, 1 + 1000 // (2 * table.height + 2))
    settled(pipeline)
    same(source, mirror, *names)
    for table in tables:
        source.sql(f"update {table.name} set id = -id where id % 2 = 0")
        source.sql(f"delete from {table.name} where id % 3 = 0")
    settled(pipeline)
    same(source, mirror, *names)
    pipeline.settle_stopped(compare=False)
    same(source, mirror, *names)


@pytest.mark.parametrize("output", ["pgoutput"])
def test_none_is_left_out(source):
    """A new server's new type is noticed here."""
    kinds = [row[0] for row in source.sql("""
        select t.oid::regtype::text from pg_type t left join pg_type e on e.oid = t.typelem
         where t.typnamespace = 'pg_catalog'::regnamespace and t.typtype in ('b', 'r', 'm')
           and (e.typarray is null or e.typarray <> t.oid)""")]
    names = {source.value("select %s::regtype::text", plain(kind)) for kind in samples.BASE
             if source.value("select to_regtype(%s) is not null", plain(kind))}
    assert set(kinds) - names == set()


def prepare_builtin(source):
    source.sql('create table "Own" (id int primary key); create table defaults (id int default 1, a int)')
    source.sql("insert into defaults select i % 9, i % 3 from generate_series(1, 900) i;"
               "create statistics stats (ndistinct, dependencies, mcv) on id, a from defaults;"
               "analyze defaults")


def test_builtin(source, mirror, make_pipeline):
    prepare_builtin(source)
    base = supported(samples.BASE, source, mirror)
    tables = [Table("plain", by_type(base)), Table("arrays", arrays_of(base, source))]
    pipeline = make_pipeline(tables=["public.plain", "public.arrays", 'public."Own"'])
    through_everything(source, mirror, pipeline, tables)


def test_contrib_and_user_types(source, mirror, make_pipeline):
    made = make_extensions(source, mirror, "postgis")
    source.sql(samples.USER_TYPES)
    source.sql("grant usage on schema kinds to tailwater")
    contrib = supported({**samples.CONTRIB, **samples.POSTGIS}, source, mirror)
    tables = [Table("own", by_type(samples.USER)), Table("own_arrays", arrays_of(samples.USER, source))]
    if contrib:
        tables += [Table("contrib", by_type(contrib)), Table("contrib_arrays", arrays_of(contrib, source))]
    if {"uuid-ossp", "pgcrypto"} <= set(made):
        tables.append(Table("made", by_type(samples.MADE)))
    pipeline = make_pipeline(tables=[f"public.{table.name}" for table in tables])
    through_everything(source, mirror, pipeline, tables)


def test_nan_and_infinities(source, mirror, make_pipeline):
    """In arrays and domains too; other columns of the same rows as witnesses."""
    columns = [(kind, values + ["null", "0"]) for kind, values in samples.SPECIAL.items()]
    columns += [("text", samples.TEXTS[:7]), ("bytea", samples.BASE["bytea"])]
    table = Table("special", columns)
    through_everything(source, mirror, make_pipeline(tables=["public.special"]), [table], bulk=False)


def test_identity_and_generated(source, mirror, make_pipeline):
    source.sql("""
        create table g (id int generated always as identity primary key, d int generated by default as identity,
                        a int, twice numeric generated always as (a * 2.5) stored, t text,
                        u text generated always as (upper(t) || '!') stored,
                        j text[] generated always as (array[t, null]) stored);
        insert into g (a, t) select i, 'ä' || i from generate_series(1, 20) i""")
    pipeline = make_pipeline().publish()
    pipeline.start().wait_until_caught_up()
    same(source, mirror, "g")
    source.sql("insert into g (a, t) values (100, 'x'), (null, null); update g set a = a + 1, t = 'y' where id < 5;"
               "update g set id = default where id = 7; delete from g where id = 3")
    pipeline.wait_until_caught_up()
    same(source, mirror, "g")
    pipeline.settle()
    assert mirror.value("select twice from g where id = 21") == 250
