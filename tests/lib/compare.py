"""Is the mirror what the source is?  Row by row, as text, in both directions."""

import collections
import io

SHOWN = 10


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def split(table):
    """A table's name as the tests write it: "orders", "sales.orders", or a (schema, name) pair."""
    if isinstance(table, tuple):
        return table
    schema, dot, name = table.partition(".")
    return (schema, name) if dot else ("public", schema)


def source_tables(source, schema=None):
    """Every table of the source with a usable key, partitions left to their roots."""
    return [tuple(row) for row in source.sql("""
        select n.nspname, c.relname
          from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence = 'p'
           and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_toast'
           and (%s::text is null or n.nspname = %s)
           and exists (select from pg_index i
                        where i.indrelid = c.oid and i.indimmediate and i.indisvalid
                          and case c.relreplident when 'i' then i.indisreplident
                                                  when 'n' then false else i.indisprimary end)
         order by 1, 2""", schema, schema, user="postgres")]


def columns(database, schema, name):
    return [row[0] for row in database.sql("""
        select attname from pg_attribute
         where attrelid = format('%%I.%%I', %s::text, %s::text)::regclass
           and attnum > 0 and not attisdropped order by attnum""", schema, name, user="postgres")]


def only(database, schema, name):
    """Children by inheritance are tables of their own; partitions are not."""
    is_plain = database.value("select relkind = 'r' from pg_class where oid = "
                              "format('%%I.%%I', %s::text, %s::text)::regclass", schema, name,
                              user="postgres")
    return "only " if is_plain else ""


def rows(database, schema, name, names):
    listed = ", ".join(quoted(n) + "::text" for n in names) or "1"
    return collections.Counter(database.copy_out(
        f"select {listed} from {only(database, schema, name)}{quoted(schema)}.{quoted(name)}",
        user="postgres"))


def images(database, schema, name, names, types):
    """Every row as COPY's binary format has it: the bytes that the server keeps, not a rendering.

    A column that is not of a built-in scalar type carries type OIDs, which differ between servers: its text is taken.
    """
    listed = ", ".join(quoted(n) + ("" if plain else "::text") for n, plain in zip(names, types))
    with database.connection("postgres").cursor() as cursor:
        data = io.BytesIO()
        cursor.copy_expert(f"copy (select {listed} from {quoted(schema)}.{quoted(name)}) to stdout (format binary)", data)
    return collections.Counter(binary_rows(data.getvalue()))


def binary_rows(data):
    """The rows of COPY's binary format, each as its bytes."""
    at = 19 + int.from_bytes(data[15:19], "big")
    while True:
        start, count = at, int.from_bytes(data[at:at + 2], "big", signed=True)
        if count < 0:
            return
        at += 2
        for _ in range(count):
            at += 4 + max(int.from_bytes(data[at:at + 4], "big", signed=True), 0)
        yield data[start:at]


def binary_columns(database, schema, name):
    """For each column: is it a built-in scalar, or text?"""
    return [row[0] for row in database.sql("""
        select a.atttypid < 16384 and t.typcategory not in ('A', 'R', 'C') and t.typtype = 'b'
          from pg_attribute a join pg_type t on t.oid = a.atttypid
         where a.attrelid = format('%%I.%%I', %s::text, %s::text)::regclass
           and a.attnum > 0 and not a.attisdropped order by a.attnum""", schema, name, user="postgres")]


def table_images(database, table):
    """images() of a whole table or view."""
    schema, name = split(table)
    return images(database, schema, name, columns(database, schema, name), binary_columns(database, schema, name))


def binary_difference(source, mirror, table):
    """As difference(), by the bytes of the values."""
    said = difference(source, mirror, table)
    there, here = table_images(source, table), table_images(mirror, table)
    if said or there == here:
        return said
    missing, extra = there - here, here - there
    return "\n".join([f"{table}: {sum(missing.values())} rows differ in their bytes",
                      *(f"  source {row!r:.300}" for row in list(missing)[:SHOWN]),
                      *(f"  mirror {row!r:.300}" for row in list(extra)[:SHOWN])])


def shorten(line):
    text = line.decode(errors="replace")
    return text if len(text) <= 300 else f"{text[:300]}… ({len(text)} characters)"


def difference(source, mirror, table, names=None):
    """What differs between a source table and its live view, as text; "" where they are equal."""
    schema, name = split(table)
    theirs, ours = columns(source, schema, name), columns(mirror, schema, name)
    if names is None:
        names = theirs
        if theirs != ours:
            return f"{schema}.{name}: columns {theirs} on the source, {ours} on the mirror"
    there, here = rows(source, schema, name, names), rows(mirror, schema, name, names)
    if there == here:
        return ""
    missing, extra = there - here, here - there
    said = [f"{schema}.{name}: {sum(there.values())} rows on the source, {sum(here.values())} on "
            f"the mirror; {sum(missing.values())} missing, {sum(extra.values())} extra"]
    for title, lines in (("missing or different on the mirror:", missing),
                         ("only on the mirror:", extra)):
        if lines:
            said.append(f"  {title}")
            said += [f"    {shorten(line)}" for line in sorted(lines)[:SHOWN]]
    return "\n".join(said)


def compare(source, mirror, tables=None, names=None):
    """Fail, readably, unless every live view equals its source table.  Nobody may be writing."""
    found = [difference(source, mirror, table, names) for table in tables or source_tables(source)]
    found = [text for text in found if text]
    assert not found, "the mirror differs from the source\n" + "\n".join(found)


def metadata(mirror, table, key="id", schema_pattern="mirror_{}"):
    """The stored rows, tombstones as well: {key: (is tombstone, _lsn)}."""
    schema, name = split(table)
    stored = f"{quoted(schema_pattern.format(schema))}.{quoted(name)}"
    return {row[0]: (row[1], row[2]) for row in mirror.sql(
        f"select {key}, _deleted_at is not null, _lsn::text from {stored}")}
