"""What is replicated.  Each workload: rows there before, the work, and the same work hand-written.

run() makes the backlog on the source.  writes() gives the write-only contender its transactions: lists
of (SQL, None) or (COPY, file), with everything that can be made beforehand made beforehand.
"""

import io
import os
import subprocess

from lib.cluster import tool

SCHEMA = """
    create table item (id bigint primary key, owner int not null, name text not null,
                       amount numeric(12, 2) not null, changed timestamptz not null, note text);
    create index item_owner on item (owner);
    create table done (id int primary key);
    """

ROWS = """insert into item
    select i, (i * 7919) %% 50000, 'item number ' || i, i %% 10000 + 0.25,
           '2024-01-01 00:00+00'::timestamptz + i * interval '1 s',
           case when i %% 4 = 0 then 'a note on item ' || i end
      from generate_series(%s::bigint, %s::bigint) i"""

COLUMNS = ("id", "owner", "name", "amount", "changed", "note")
TYPES = ("bigint", "int", "text", "numeric", "timestamptz", "text")
CHUNK = 5000
STORED = "mirror_public.item"


def rows_of(bench, where, order="id"):
    """The source's rows after the work, as tuples of text."""
    return bench.source.sql(f"select {', '.join(c + '::text' for c in COLUMNS)} from item "
                            f"where {where} order by {order}")


def copy_of(rows, lsn):
    """A COPY of rows, as (SQL, file)."""
    text = io.StringIO()
    for row in rows:
        text.write("\t".join("\\N" if v is None else v for v in row) + f"\t{lsn}\n")
    text.seek(0)
    return f"copy {STORED} ({', '.join(COLUMNS)}, _lsn) from stdin", text


def array(values):
    quoted = ("NULL" if v is None else '"' + v.replace("\\", "\\\\").replace('"', '\\"') + '"'
              for v in values)
    return "'{" + ",".join(quoted).replace("'", "''") + "}'"


def numbers(values):
    return "'{" + ",".join(values) + "}'"


def update_of(rows, lsn):
    lists = []
    for i, kind in enumerate(TYPES):
        values = [row[i] for row in rows]
        lists.append((numbers if kind in ("bigint", "int", "numeric") else array)(values)
                     + f"::{kind}[]")
    sets = ", ".join(f"{c} = u.{c}" for c in COLUMNS[1:])
    return (f"update {STORED} m set {sets}, _lsn = '{lsn}', _deleted_at = null "
            f"from unnest({', '.join(lists)}) u ({', '.join(COLUMNS)}) where m.id = u.id", None)


def delete_of(keys):
    return (f"delete from {STORED} m using unnest({numbers(keys)}::bigint[]) u (id) "
            "where m.id = u.id", None)


def chunks(items, size=CHUNK):
    return [items[i:i + size] for i in range(0, len(items), size)]


def short(number):
    return f"{number // 1000000}M" if number >= 1000000 else f"{number // 1000}k"


class Workload:
    def __init__(self, scale):
        self.scale = scale  # 1, or 0.1 for --quick

    @property
    def rows(self):
        return int(1_000_000 * self.scale)

    @property
    def title(self):
        return self.form.format(rows=short(self.rows), tenth=short(self.rows // 10))

    def before(self, bench):
        """Rows that both sides have when the backlog begins."""
        bench.source.sql(ROWS, 1, self.rows)

    def pgbench(self, bench, script, transactions, clients=8):
        path = os.path.join(bench.folder, f"{self.name}.sql")
        with open(path, "w") as f:
            f.write(script)
        subprocess.run([tool("pgbench"), "-n", "-M", "prepared",
                        "-h", bench.source.cluster.folder, "-p", "5432", "-U", bench.source.user,
                        "-c", str(clients), "-j", "1", "-t", str(transactions // clients),
                        "-f", path, bench.source.name], check=True, stdout=subprocess.DEVNULL,
                       env={**os.environ, "PGOPTIONS": "-c synchronous_commit=off"})


class Insert(Workload):
    name, form = "insert", "{rows} inserts"

    def before(self, bench):
        pass

    def run(self, bench):
        bench.source.sql(ROWS, 1, self.rows)

    def writes(self, bench):
        return [[copy_of(rows_of(bench, "true"), bench.end)]]


class Update(Workload):
    name, form = "update", "{rows} updates"

    def run(self, bench):
        bench.source.sql("update item set amount = amount + 1, changed = changed + interval '1 d'")

    def writes(self, bench):
        return [[update_of(rows, bench.end) for rows in chunks(rows_of(bench, "true"))]]


class Delete(Workload):
    name, form = "delete", "{rows} deletes"

    def run(self, bench):
        bench.source.sql("delete from item")

    def writes(self, bench):
        keys = [str(i) for i in range(1, self.rows + 1)]
        return [[delete_of(some) for some in chunks(keys)]]


class Transactions(Workload):
    """Each inserts one row and updates another."""

    name, form = "transactions", "{tenth} two-row transactions"

    def before(self, bench):
        bench.source.sql(ROWS, 1, self.rows // 10)
        bench.source.sql(f"create sequence ids start {self.rows}")

    def run(self, bench):
        self.pgbench(bench, f"""
            \\set i random(1, {self.rows // 10})
            begin;
            insert into item values (nextval('ids'), :i, 'new item', 1, now(), null);
            update item set amount = amount + 1, changed = now() where id = :i;
            commit;
            """, self.rows // 10)

    def writes(self, bench):
        new = chunks(rows_of(bench, f"id >= {self.rows}"))
        old = {row[0]: row for row in rows_of(bench, f"id < {self.rows}")}
        said = []
        for rows in new:
            touched = {row[1] for row in rows}  # owner is the key that the same transaction updated
            said.append([copy_of(rows, bench.end), update_of([old[key] for key in touched], bench.end)])
        return said


class Hot(Workload):
    """A hundred keys, updated over and over."""

    name, form = "hot", "{tenth} hot-key transactions"

    def before(self, bench):
        bench.source.sql(ROWS, 1, self.rows // 10)

    def run(self, bench):
        self.pgbench(bench, """
            \\set i random(1, 100)
            update item set amount = amount + 1, changed = now() where id = :i;
            """, self.rows // 10)

    def writes(self, bench):
        rows = rows_of(bench, "id <= 100")
        return [[update_of(rows, bench.end)] for _ in range(self.rows // 10 // CHUNK)]


EVERY = (Insert, Update, Delete, Transactions, Hot)
