"""Is every changed key in the ledger?  Random transactions, and the answer without the ledger's help.

After each step the full query of every fact is run on the live views and compared with its result
before the step.  A key whose rows differ has to be in the fact's ledger, in a batch of the step or
later; one that has to wait for the fan-out is asked for when that is done.  What the ledger has
beyond that is the excess: 0 for a fact whose query shows the watched columns as they are.

The queries are written by hand, and know nothing of how keys are found.
"""

import collections
import random

from lib import wait

SCHEMA = """
    create table regions (id int primary key, name text);
    create table countries (id int primary key, region_id int, tax numeric, note text);
    create table customers (id int primary key, country_id int, segment text, body text);
    create table orders (id int primary key, customer_id int, status text, amount numeric, note text,
                         created_at timestamptz);
    create table payments (id int primary key, order_id int, paid numeric);
    create table promos (code text, year int, rate numeric, primary key (code, year));
    create table order_promos (order_id int, code text, year int, note text, primary key (order_id, code, year));
    create table docs (tenant text, no int, title text, primary key (tenant, no));
    create table lines (tenant text, n int, doc int, other_tenant text, other_doc int, amount int,
                        primary key (tenant, n));
    alter table customers alter body set storage external;
"""

# How random values of a column are made; NULL now and then where it may be.
BIG = "repeat(chr(65 + {n} % 20), 3000)"
TABLES = {
    "regions": (["id"], {"id": "id4", "name": "word"}),
    "countries": (["id"], {"id": "id6", "region_id": "id4?", "tax": "number?", "note": "word?"}),
    "customers": (["id"], {"id": "id12", "country_id": "id6?", "segment": "segment?", "body": "big?"}),
    "orders": (["id"], {"id": "id40", "customer_id": "id12?", "status": "word", "amount": "number?", "note": "word?",
                        "created_at": "time?"}),
    "payments": (["id"], {"id": "id40", "order_id": "id40?", "paid": "number"}),
    "promos": (["code", "year"], {"code": "quoted", "year": "id3", "rate": "number"}),
    "order_promos": (["order_id", "code", "year"],
                     {"order_id": "id40", "code": "quoted", "year": "id3", "note": "word?"}),
    "docs": (["tenant", "no"], {"tenant": "quoted", "no": "id6", "title": "word"}),
    "lines": (["tenant", "n"], {"tenant": "quoted", "n": "id12", "doc": "id6?", "other_tenant": "quoted?",
                                "other_doc": "id6?", "amount": "id6?"}),
}


def dimension(table, join, **more):
    return {"table": f"public.{table}", "join": join, **more}


WAY = [dimension("customers", "customers.id = orders.customer_id", watch=["segment"]),
       dimension("countries", "countries.id = customers.country_id", watch=["tax"]),
       dimension("regions", "regions.id = countries.region_id")]

FACTS = {
    # Shows all that is watched.
    "order_row": {"table": "public.orders", "key": ["id"], "watch": ["status", "amount"], "dimensions": WAY},
    # The same by way of the fan-out: always, and above a small limit.
    "order_later": {"table": "public.orders", "key": ["id"], "watch": ["status", "amount"],
                    "dimensions": [{**WAY[0], "fan_out": "defer"}, {**WAY[1], "fan_out_limit": 3},
                                   {**WAY[2], "fan_out_limit": 2}]},
    # A filter, sums, a bridge.
    "order_sum": {"table": "public.orders", "key": ["id"], "watch": ["status", "amount"], "dimensions": [
        dimension("promos", ["promos.code = bridge.code", "promos.year = bridge.year"]),
        dimension("order_promos", "orders.id = bridge.order_id", **{"as": "bridge"}),
        dimension("payments", "payments.order_id = orders.id", watch=["paid"])]},
    # A group: the key is not the table's.
    "segment": {"table": "public.customers", "key": ["segment"], "watch": ["country_id"], "dimensions": [
        dimension("orders", "orders.customer_id = customers.id", watch=["amount"]),
        dimension("countries", "countries.id = customers.country_id", watch=["tax"])]},
    # A day in a time zone.
    "day": {"table": "public.orders", "key": {"day": "(created_at at time zone 'Europe/London')::date"},
            "watch": ["amount"], "dimensions": [dimension("payments", "payments.order_id = orders.id")]},
    # Composite keys, one table by two aliases.
    "line": {"table": "public.lines", "key": ["tenant", "n"], "watch": ["amount"], "dimensions": [
        dimension("docs", ["d.tenant = lines.tenant", "d.no = lines.doc"], **{"as": "d"}),
        dimension("docs", ["o.tenant = lines.other_tenant", "lines.other_doc = o.no"], **{"as": "o", "watch": ["title"]}),
    ]},
}

# Key columns first.  Rows are compared as the text of their columns, so that 1 and 1.0 are two things.
ORDER_ROW = """
    select o.id, o.status, o.amount::text, o.customer_id, c.id, c.segment, c.country_id, k.id, k.tax::text,
           k.region_id, r.id, r.name
      from orders o left join customers c on c.id = o.customer_id left join countries k on k.id = c.country_id
      left join regions r on r.id = k.region_id"""
QUERIES = {
    "order_row": (1, ORDER_ROW),
    "order_later": (1, ORDER_ROW),
    "order_sum": (1, """
        select o.id, o.amount * (1 + coalesce((select sum(p.rate) from order_promos b join promos p using (code, year)
                                                where b.order_id = o.id), 0)),
               (select count(*) from order_promos b where b.order_id = o.id),
               (select sum(p.paid) from payments p where p.order_id = o.id)
          from orders o where o.status < 'm'"""),
    "segment": (1, """
        select c.segment, count(distinct c.id), count(o.id), sum(o.amount * k.tax)
          from customers c left join orders o on o.customer_id = c.id left join countries k on k.id = c.country_id
         where c.segment is not null group by 1"""),
    "day": (1, """
        select (o.created_at at time zone 'Europe/London')::date, count(distinct o.id), sum(o.amount), sum(p.paid)
          from orders o left join payments p on p.order_id = o.id where o.created_at is not null group by 1"""),
    "line": (2, """
        select l.tenant, l.n, l.amount, d.title, o.title
          from lines l left join docs d on d.tenant = l.tenant and d.no = l.doc
          left join docs o on (o.tenant, o.no) = (l.other_tenant, l.other_doc)"""),
}

EXACT = {"order_row"}


class Missed(AssertionError):
    pass


class Oracle:
    """One run over a pipeline that streams SCHEMA with FACTS."""

    def __init__(self, pipeline, seed, say=print):
        self.pipeline, self.source, self.mirror = pipeline, pipeline.source, pipeline.mirror
        self.chance = random.Random(seed)
        self.seed, self.say = seed, say
        self.steps = self.batches = 0
        self.changed, self.excess, self.written = (collections.Counter() for _ in range(3))
        self.everything = 0
        self.owed = {fact: {} for fact in FACTS}  # key → the batch after which it has to be there
        self.results = {fact: self.result(fact) for fact in FACTS}

    # ---- the source ----

    def value(self, kind):
        if kind.endswith("?") and self.chance.random() < 0.15:
            return "null"
        kind = kind.rstrip("?")
        n = self.chance.randrange(1000000)
        if kind.startswith("id"):
            return str(1 + n % int(kind[2:]))
        return {"word": f"'{chr(97 + n % 26)}'", "segment": f"'{'ABC'[n % 3]}'",
                "number": self.chance.choice(["1", "1.0", "2", "3", "0"]),
                "quoted": self.chance.choice(["'a'", "'it''s'", "'{\"x\",NULL}'", "'a b\\,'", "''"]),
                "big": BIG.format(n=n),
                "time": f"'2024-03-31 00:00+00'::timestamptz + {n % 96 - 48} * interval '17 min'"}[kind]

    def where(self, table, columns, keys):
        if self.chance.random() < 0.75:
            return " and ".join(f"{key} = {self.value(columns[key])}" for key in keys)
        column = self.chance.choice(list(columns))
        value = self.value(columns[column])
        return f"{column} is null" if value == "null" else f"{column} = {value}"

    def statement(self):
        """An insert, update or delete; what fails on a key leaves the transaction as it was."""
        table = self.chance.choice(list(TABLES) + ["orders", "customers", "orders"])
        keys, columns = TABLES[table]
        kind = self.chance.random()
        if kind < 0.003:
            return f"truncate {table}"
        if kind < 0.4:
            values = ", ".join(self.value(columns[column]) for column in columns)
            sql = f"insert into {table} ({', '.join(columns)}) values ({values})"
            if self.chance.random() < 0.5:
                rest = [c for c in columns if c not in keys]
                sets = ", ".join(f"{c} = excluded.{c}" for c in rest)
                sql += f" on conflict ({', '.join(keys)}) do " + (f"update set {sets}" if sets else "nothing")
        elif kind < 0.8:
            changed = self.chance.sample(list(columns), self.chance.randint(1, min(2, len(columns))))
            sets = ", ".join(f"{c} = {self.value(columns[c])}" for c in changed)
            sql = f"update {table} set {sets} where {self.where(table, columns, keys)}"
        else:
            sql = f"delete from {table} where {self.where(table, columns, keys)}"
        return f"do $do$ begin {sql}; exception when unique_violation or not_null_violation then null; end $do$"

    def transaction(self):
        statements = [self.statement() for _ in range(self.chance.choice([1, 2, 3, 5, 12]))]
        if self.chance.random() < 0.15:
            # What lies on the way is written, in nothing that is watched, beside what lies behind it.
            customer = self.value("id12")
            statements += [f"update orders set note = {self.value('word')} where customer_id = {customer}",
                           f"update customers set segment = {self.value('segment?')} where id = {customer}"]
        return "; ".join(["begin", *statements, "commit"])

    def fill(self):
        with self.source.transaction() as cursor:
            for _ in range(400):
                cursor.execute(self.statement())

    # ---- the mirror ----

    def result(self, fact):
        nkeys, query = QUERIES[fact]
        rows = {}
        for row in self.mirror.sql(query):
            rows.setdefault(tuple(map(str, row[:nkeys])), []).append(row[nkeys:])
        return {key: sorted(map(repr, values)) for key, values in rows.items()}

    def ledger(self, fact, since):
        """Key → the last batch that has it."""
        keys = ", ".join(QUERIES_KEYS[fact])
        return {tuple(map(str, row[1:])): row[0] for row in self.mirror.sql(
            f"select max(batch_id), {keys} from tailwater.affected_{fact} where batch_id > %s "
            f"group by {', '.join(str(i + 2) for i in range(len(QUERIES_KEYS[fact])))}", since)}

    def catch_up(self):
        target = self.source.lsn()
        wait.until(lambda: self.mirror.value("select cursor >= %s::pg_lsn from tailwater.clock", target),
                   lambda: f"{target}\n{self.pipeline.log_tail()}", deadline=60, every=0.002)

    def fan_outs(self):
        return self.mirror.value("select count(*) from tailwater.fan_out")

    # ---- a step ----

    def step(self):
        since = self.pipeline.clock()[0]
        for _ in range(self.chance.choice([1, 1, 1, 2, 3])):
            self.source.sql(self.transaction())
        self.catch_up()
        self.steps += 1
        streamed = self.mirror.value("select count(*) from tailwater.batch where kind = 'stream' and batch_id > %s", since)
        self.batches += self.pipeline.clock()[0] - since
        for fact in FACTS:
            self.judge(fact, since, streamed)
        if self.steps % 10 == 0:
            self.finish()

    def judge(self, fact, since, streamed):
        before, after = self.results[fact], self.result(fact)
        self.results[fact] = after
        changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        if self.mirror.value("select count(*) from tailwater.everything where fact = %s and batch_id > %s", fact, since):
            self.everything += 1
            self.owed[fact].clear()
            return
        found = self.ledger(fact, since)
        self.changed[fact] += len(changed)
        if fact != "order_later":
            self.written[fact] += len(found)
            if streamed <= 1:  # over several batches a key may have changed and changed back
                self.excess[fact] += len(found.keys() - changed)
                if fact in EXACT and found.keys() - changed:
                    raise Missed(f"step {self.steps}: {fact}: keys of rows that are as they were: "
                                 f"{sorted(found.keys() - changed)}")
        for key in changed:
            self.owed[fact][key] = since
        self.collect(fact, found, must=fact != "order_later")

    def collect(self, fact, found, must):
        owed = self.owed[fact]
        for key in [key for key, since in owed.items() if found.get(key, 0) > since]:
            del owed[key]
        if must and owed:
            raise Missed(f"step {self.steps}: {fact}: changed, and not in the ledger: {sorted(owed)}")

    def finish(self):
        """The fan-outs are expanded: now everything has to be there."""
        wait.until(lambda: self.fan_outs() == 0, lambda: f"expanded\n{self.pipeline.log_tail()}", every=0.01)
        if self.owed["order_later"]:
            since = min(self.owed["order_later"].values())
            self.collect("order_later", self.ledger("order_later", since), must=True)

    def report(self):
        self.say(f"seed {self.seed}: {self.steps} steps, {self.batches} batches, {sum(self.changed.values())} changed "
                 f"keys, none missed; everything {self.everything} times")
        for fact in FACTS:
            if fact != "order_later":
                self.say(f"  {fact}: {self.changed[fact]} changed, {self.written[fact]} in the ledger, "
                         f"excess {self.excess[fact]}")


QUERIES_KEYS = {fact: (list(FACTS[fact]["key"])) for fact in FACTS}


def run(make, source, batches, seed, say=print):
    """make(**keys) gives the pipeline; it is left running."""
    source.sql(SCHEMA)
    pipeline = make(facts=FACTS)
    pipeline.publish().start().wait_until_caught_up()
    oracle = Oracle(pipeline, seed, say)
    oracle.fill()
    pipeline.wait_until_caught_up()
    oracle.results = {fact: oracle.result(fact) for fact in FACTS}
    oracle.finish()
    while oracle.batches < batches:
        oracle.step()
    oracle.finish()
    oracle.report()
    return oracle
