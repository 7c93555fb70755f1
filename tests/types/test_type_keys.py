"""Every type as a key: copied, inserted, updated, given to another row, deleted."""

import samples
from test_types import copied, make_extensions, plain, prepare_builtin, settled

KEYLESS = ("kinds.nothing", "kinds.rowtype")


def keyed(source, catalogs):
    """(type, two values that differ) of the types with a btree."""
    found = []
    for catalog in catalogs:
        for kind, values in catalog.items():
            element = kind.removesuffix("[]")
            if not source.value("select to_regtype(%s) is not null", plain(kind)):
                continue
            if kind in KEYLESS or values[0] == "null" or values[-1] == "null":
                continue
            if source.value("""
                    with recursive b as (select %s::regtype::oid as oid union
                        select typbasetype from b join pg_type t on t.oid = b.oid and typtype = 'd')
                    select exists (select from b join pg_type t using (oid), pg_opclass c join pg_am a on
                        a.oid = opcmethod where amname = 'btree' and opcdefault and (opcintype = t.oid
                        or opcintype = 'anyenum'::regtype and typtype = 'e' or
                        opcintype = 'anyrange'::regtype and typtype = 'r' or
                        opcintype = 'anymultirange'::regtype and typtype = 'm' or
                        opcintype = 'record'::regtype and typtype = 'c' or
                        (opcintype, t.oid) in (('text'::regtype, 'varchar'::regtype),
                            ('inet'::regtype, 'cidr'::regtype)) or
                        opcintype = 'oid'::regtype and typname like 'reg%%'))""", plain(element)):
                found.append((kind, values[:2]))
    return found


def test_every_key(source, mirror, make_pipeline):
    make_extensions(source, mirror)
    prepare_builtin(source)
    source.sql(samples.USER_TYPES)
    source.sql("grant usage on schema kinds to tailwater")
    kinds = keyed(source, (samples.BASE, samples.CONTRIB, samples.USER))
    kinds = [(kind, values) for kind, values in kinds if len(set(values)) == 2]
    kinds += [(f"{kind}[]", [f"array[({a})::{kind}, null]", f"array[[({b})::{kind}]]"])
              for kind, (a, b) in kinds if kind in ("int4", "text", "numeric", "kinds.mood", "citext")]
    assert len(kinds) > 70
    names = [f"k{i}" for i in range(len(kinds))]
    for name, (kind, (a, b)) in zip(names, kinds):
        source.sql(f"create table {name} (k {kind} primary key, n int, big text);"
                   f"alter table {name} alter big set storage external;"
                   f"insert into {name} values (({a})::{kind}, 1, repeat('x', 3000))", user="postgres")
        source.sql(f"alter table {name} owner to app; grant select on {name} to tailwater", user="postgres")
    pipeline = make_pipeline(tables=["public.*"]).publish()
    pipeline.start().wait_until_caught_up()
    check(source, mirror, names, kinds)
    for step in ("insert into {0} values (({2})::{1}, 2, repeat('y', 3000))",
                 "update {0} set n = n + 10",
                 "delete from {0} where n = 11; update {0} set k = ({3})::{1}",
                 "begin; delete from {0}; insert into {0} values (({2})::{1}, 5, 'z'); commit",
                 "delete from {0}"):
        for name, (kind, (a, b)) in zip(names, kinds):
            source.sql(step.format(name, kind, b, a), user="postgres")
        settled(pipeline)
        check(source, mirror, names, kinds)
    pipeline.settle()


def check(source, mirror, names, kinds):
    queries = " union all ".join(f"select {i}, format('%s', k), n, md5(big) from public.{name}"
                                 for i, name in enumerate(names))
    there, here = (set(copied(database, queries, False).splitlines()) for database in (source, mirror))
    assert there == here, [(kinds[int(row.split(b"\t")[0])], row) for row in there ^ here][:20]
