"""What a refresh by keys saves (scripts/bench --refresh).

Two derived tables over the same orders: a join of two tables, and one of six with aggregates.  A part of
the orders changes on the source; a running replicator applies that and brings both tables forward by their keys, one
after the other.  Then each is computed as a whole, in whichever of these ways is the fastest for it (all are tried in the
first round): a materialized view refreshed, or a table made beside the one that is served, with its primary key and its
statistics, which then takes its place; each with the server's settings and with those of a refresher's session.

The time by keys is what the replicator says of its transactions, from the question whether there is something to the end
of the commit.  Its first refresh is not counted, no more than the first of each way to rebuild: a new connection reads the
catalogue.  Neither side waits for the disk at the commit.  Before each round's changes, and before each rebuild, there is a
checkpoint, and everything is read into the server's memory, which holds it all: tables that are worked on are there.  (A key's
rows lie anywhere: from a cold disk each costs a read, where a rebuild reads on.)  Small changes come several in a row, as they
do: the first of them meets pages that the checkpoint has just written, and puts all of these into the WAL once more.
"""

import re
import statistics
import time

from lib import wait
from lib.cluster import SUPERUSER
from shop import Side, make_source

SCHEMA = """
    create table countries (id int primary key, name text not null);
    create table customers (id bigint primary key, country_id int not null, segment text not null);
    create table orders (id bigint primary key, customer_id bigint not null, status text not null,
                         amount numeric(12,2) not null, created_at timestamptz not null);
    create table products (id int primary key, category text not null);
    create table lines (id bigint primary key, order_id bigint not null, product_id int not null,
                        price numeric(12,2) not null);
    create table payments (id bigint primary key, order_id bigint not null, paid numeric(12,2) not null);
    create index on orders (customer_id);
    create index on lines (order_id);
    create index on payments (order_id);
    create table item (id bigint primary key);
    create table done (id bigint primary key);
"""

TWO = """select o.id, o.status, o.amount, o.created_at, c.segment
           from orders o left join customers c on c.id = o.customer_id"""

SIX = """select o.id, o.status, o.amount, c.segment, n.name as country, l.lines, l.total, l.categories, p.paid
           from orders o
           left join customers c on c.id = o.customer_id
           left join countries n on n.id = c.country_id
           left join (select l.order_id, count(*) as lines, sum(l.price) as total,
                             count(distinct r.category) as categories
                        from lines l join products r on r.id = l.product_id group by l.order_id) l
             on l.order_id = o.id
           left join (select p.order_id, sum(p.paid) as paid from payments p group by p.order_id) p
             on p.order_id = o.id"""

# The aggregates stand beside the orders, not above them: the keys have to be given to them.
SIX_KEYS = SIX.replace("group by l.order_id", "where l.order_id in (select k.id from {keys} k) group by l.order_id") \
              .replace("group by p.order_id", "where p.order_id in (select k.id from {keys} k) group by p.order_id") \
              .replace("from orders o", "from {keys} k join orders o on o.id = k.id")

CUSTOMERS = {"table": "public.customers", "join": "customers.id = orders.customer_id",
             "watch": ["segment"]}

FACTS = {
    "two": {"table": "public.orders", "key": ["id"], "watch": ["status", "amount", "created_at"],
            "dimensions": [CUSTOMERS], "refresh": {"into": "report.two", "query": TWO}},
    "six": {"table": "public.orders", "key": ["id"], "watch": ["status", "amount"], "dimensions": [
        CUSTOMERS,
        {"table": "public.countries", "join": "countries.id = customers.country_id", "fan_out": "defer"},
        {"table": "public.payments", "join": "payments.order_id = orders.id"},
        {"table": "public.lines", "join": "lines.order_id = orders.id"},
        {"table": "public.products", "join": "products.id = lines.product_id", "fan_out": "defer"}],
        "refresh": {"into": "report.six", "query": SIX_KEYS}}}

QUERIES = {"two": TWO, "six": SIX}
PARTS = {"0.1 %": 1000, "10 %": 10}  # one row in so many changes
IN_A_ROW = {"0.1 %": 5, "10 %": 1}
CHUNK = 200000


def fill(source, orders):
    source.sql("""
        insert into countries select i, 'country ' || i from generate_series(1, 50) i;
        insert into customers select i, 1 + i % 50, 'segment ' || i % 7 from generate_series(1, 100000) i;
        insert into products select i, 'category ' || i % 20 from generate_series(1, 1000) i""")
    for first in range(1, orders + 1, CHUNK):
        last = min(first + CHUNK - 1, orders)
        source.sql(f"""
            insert into orders select i, 1 + i % 100000, 'new', i % 1000, '2024-01-01'::timestamptz + i * interval '1 s'
                from generate_series({first}, {last}) i;
            insert into lines select 2 * i + j, i, 1 + (i * 7 + j) % 1000, i % 100
                from generate_series({first}, {last}) i, generate_series(0, 1) j;
            insert into payments select i, i, 5 from generate_series({first}, {last}) i where i % 2 = 0""")


def timed(what):
    start = time.monotonic()
    what()
    return time.monotonic() - start


# As src/refresh/refresh.c has them.
SESSION = ("set jit = off; set work_mem = '64MB'; set temp_buffers = '64MB'; set random_page_cost = 1.5; "
           "set synchronous_commit = off")
USUAL = "reset all; set synchronous_commit = off"

VIEW = "refresh materialized view full_{name}"
TABLE = ("begin; create table next_{name} as {query}; alter table next_{name} add primary key (id); analyze next_{name}; "
         "drop table if exists served_{name}; alter table next_{name} rename to served_{name}; "
         "alter index next_{name}_pkey rename to served_{name}_pkey; commit")
WAYS = [(title, settings, sql) for title, sql in (("view", VIEW), ("table", TABLE)) for settings in (USUAL, SESSION)]


def warm(bench, database):
    bench.checkpoint()
    database.sql("select sum(pg_prewarm(oid)) from pg_class where relkind in ('r', 'i', 'm', 't') and "
                 "relnamespace::regnamespace::text in ('mirror_public', 'report', 'public', 'tailwater', 'pg_toast')",
                 user=SUPERUSER)


def rebuild(bench, database, name, way):
    title, settings, sql = way
    warm(bench, database)
    database.sql(settings)
    took = timed(lambda: database.sql(sql.format(name=name, query=QUERIES[name])))
    database.sql("reset all")
    return took


def compare(database, name):
    """The derived table is its query, or no figure counts."""
    columns = ", ".join(f"{one}" for (one,) in database.sql(
        "select column_name from information_schema.columns where table_schema = 'report' and table_name = %s "
        "order by ordinal_position", name))
    wrong = database.value(f"select count(*) from (select {columns} from report.{name} except all "
                           f"select {columns} from full_{name}) d")
    if wrong:
        raise RuntimeError(f"report.{name}: {wrong} rows are not those of the query")


REFRESHED = re.compile(r"fact (\w+): (\d+) keys.*? in (\d+) ms; 0 rows inserted, (\d+) updated, 0 deleted")


def by_keys(bench, side, part, number, wanted):
    """Seconds of the transactions that brought each table forward."""
    with open(side.pipeline.log_file, errors="replace") as log:
        log.seek(0, 2)
        # Spread over the table, as changes are.
        bench.source.sql("update orders set amount = amount + 1, status = left(status || 'x', 20) where id %% %s = %s",
                         part, number)
        said, took = "", {}

        def is_done():
            nonlocal said
            said += log.read()
            found = REFRESHED.findall(said)
            for name in FACTS:
                took[name] = [(int(rows), int(ms) / 1000) for fact, keys, ms, rows in found if fact == name and int(keys)]
            return all(sum(rows for rows, _ in one) >= wanted for one in took.values())

        wait.until(is_done, lambda: f"{wanted} rows of each table are refreshed: {took}", 300)
    return {name: sum(seconds for _, seconds in one) for name, one in took.items()}


def measure(bench, side, rounds, orders, say):
    database, times, best = side.database, {}, {}
    for title, part in PARTS.items():
        for number in range(rounds):
            warm(bench, database)
            first = IN_A_ROW[title] * number
            took = [by_keys(bench, side, part, i, orders // part) for i in range(first, first + IN_A_ROW[title])]
            for name in FACTS:
                one = times.setdefault((name, title), {"keys": [], "full": [], "way": None})
                one["keys"] += [each[name] for each in took]
                if name not in best:
                    best[name] = min(WAYS, key=lambda way: rebuild(bench, database, name, way))
                one["way"] = best[name][0]
                one["full"].append(rebuild(bench, database, name, best[name]))
                if best[name][2] != VIEW:
                    database.sql(VIEW.format(name=name))
                compare(database, name)
                say(f"refresh, {name}, {title}: by keys {' '.join(f'{each[name]:.3f}' for each in took)} s, "
                    f"all {one['full'][-1]:.2f} s ({one['way']})")
    return times


def refresh(bench, rounds, orders, say):
    make_source(bench, "refresh", SCHEMA, fill, orders, say)
    side = Side(bench, "refresh", FACTS, refresh={"workers": 1}, log={"level": "debug"})
    database = side.database
    for name, query in QUERIES.items():
        took = timed(lambda: side.pipeline.ok("refresh", name, "--once", timeout=1800))
        say(f"refresh, {name}: built in {took:.1f} s")
        took = timed(lambda: database.sql(f"create materialized view full_{name} as {query}; "
                                          f"create unique index on full_{name} (id)"))
        say(f"refresh, {name}: the view made in {took:.1f} s")
        compare(database, name)
    database.sql("vacuum analyze", user=SUPERUSER)
    database.sql("create extension pg_prewarm", user=SUPERUSER)
    side.pipeline.start().wait_until_caught_up()
    part = max(PARTS.values())
    warm(bench, database)
    by_keys(bench, side, part, part - 1, orders // part)
    result = measure(bench, side, rounds, orders, say)
    side.pipeline.stop()
    bench.drop_everything()
    return [{"query": name, "changed": title, **figures} for (name, title), figures in result.items()]


def report(result, orders):
    lines = [f"| {orders} orders | changed | by keys, s | all, s | times faster |", "|---|---|---|---|---|"]
    for one in result:
        keys, full = (statistics.median(one[name]) for name in ("keys", "full"))
        lines.append(f"| {one['query']} tables | {one['changed']} | {keys:.3f} | {full:.2f} ({one['way']}) | {full / keys:.1f} |")
    return "\n".join(lines)
