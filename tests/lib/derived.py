"""Tables that a consumer of the ledger keeps up to date, and the question whether they are.

Each is made from a query over the live views by the keys of one fact, and brought forward by nothing
but the windows that tailwater.claim gives out.  A key that is missing in the ledger is a row that
stays as it was: difference() finds it.
"""

from lib import wait

CONSUMER = "random"

FACTS = {
    "child_row": {"table": "public.child", "key": ["k"], "watch": ["n"], "dimensions": [
        {"table": "public.parent", "join": "parent.k = child.p", "watch": ["n"]}]},
    "region": {"table": "public.parts", "key": ["region"]},
    "remainder": {"table": "public.by_full", "key": {"remainder": "(k % 7)"}, "watch": ["n"]},
}

# Of each fact: its key, and the query that is to be kept.
QUERIES = {
    "child_row": ("k", "select c.k, c.n, c.p, p.n as m from public.child c left join public.parent p on p.k = c.p"),
    "region": ("region", "select region, count(*), sum(n::bigint), sum(length(big)) as l, min(k), max(k) "
                         "from public.parts group by region"),
    "remainder": ("remainder", "select k % 7 as remainder, count(*), sum(n::bigint), min(k), max(k) "
                               "from public.by_full group by 1"),
}


class Derived:
    """The derived tables of one mirror database, as a superuser would keep them."""

    def __init__(self, database):
        self.database = database
        self.windows = 0
        self.is_made = False

    def make(self):
        for fact, (_, query) in QUERIES.items():
            self.database.sql(f"create table if not exists public.derived_{fact} as {query} limit 0")
            self.database.sql("select tailwater.subscribe(%s, %s, 'all')", CONSUMER, fact)
        self.is_made = True

    def take_window(self, fact):
        """One window, in one transaction; False where there is none."""
        key, query = QUERIES[fact]
        with self.database.transaction() as cursor:
            cursor.execute("select claim_id, everything from tailwater.claim(%s, %s, 50)", (CONSUMER, fact))
            row = cursor.fetchone()
            if row is None:
                return False
            if row[1]:
                cursor.execute(f"delete from public.derived_{fact}; insert into public.derived_{fact} {query}")
            else:
                cursor.execute(f"create temporary table wanted on commit drop as "
                               f"select {key} from tailwater.keys_{fact}(%s)", (CONSUMER,))
                cursor.execute(f"delete from public.derived_{fact} where {key} in (select {key} from wanted); "
                               f"insert into public.derived_{fact} select * from ({query}) q "
                               f"where {key} in (select {key} from wanted)")
            cursor.execute("select tailwater.ack(%s, %s, %s)", (CONSUMER, fact, row[0]))
            self.windows += 1
            return True

    def catch_up(self):
        """All windows, and those of fan-outs that are still being expanded."""
        if not self.is_made:
            self.make()
        wait.until(lambda: not self.database.value("select count(*) from tailwater.fan_out"),
                   "fan-outs are expanded", deadline=60)
        for fact in QUERIES:
            while self.take_window(fact):
                pass

    def difference(self):
        """What is not as it would be if it were made anew."""
        said = []
        for fact, (_, query) in QUERIES.items():
            for title, one, other in (("stale", f"table public.derived_{fact}", query),
                                      ("missing", query, f"table public.derived_{fact}")):
                rows = self.database.sql(f"select count(*), min(r::text) from ({one} except all {other}) r")
                if rows[0][0]:
                    said.append(f"derived from fact {fact}: {rows[0][0]} rows {title}, such as {rows[0][1]}")
        return said
