"""The shop whose customers feeds send: a pipeline with one fact, and feeds of it that are run by hand."""

import json
import subprocess

from lib import wait

SCHEMA = """
    create table customers (id bigint primary key, name text not null, note text);
    create table orders (id bigint primary key, customer_id bigint, total numeric not null);
    insert into customers select i, 'c' || i, 'n' from generate_series(1, 20) i;
    insert into orders select i, 1 + i % 20, i from generate_series(1, 60) i;
    """

FACTS = {"customer": {"table": "public.customers", "key": ["id"], "watch": ["name", "note"], "dimensions": [
    {"table": "public.orders", "join": "orders.customer_id = customers.id", "watch": ["total"]}]}}

QUERY = """select c.id, c.name, coalesce(sum(o.total), 0) as total
             from {keys} k join customers c on c.id = k.id left join orders o on o.customer_id = c.id
            group by c.id, c.name"""

RETRY = {"attempts": 3, "first": "20ms", "longest": "100ms"}


class Shop:
    """A pipeline with the fact, and feeds of it that are run by hand."""

    def __init__(self, pipeline):
        self.pipeline, self.source, self.mirror = pipeline, pipeline.source, pipeline.mirror
        self.processes = []

    def feed(self, to, name="crm", query=QUERY, **more):
        """Declares a feed; the process that runs it needs the mirror alone."""
        keys = {"fact": "customer", "query": query, "destination": to, "retry": RETRY, **more}
        self.pipeline.keys.setdefault("feeds", {})[name] = {"run": "manual", **keys}
        self.pipeline.write_config()
        return name

    def change(self, *statements):
        self.pipeline.feed(statements, "in one transaction")

    def run(self, name="crm", **more):
        """Until nothing is left to send."""
        return self.pipeline.ok("feed", "run", name, "--until", "now", **more)

    def start(self, name="crm", env=None):
        with open(self.pipeline.log_file, "a") as log:
            process = subprocess.Popen([self.pipeline.binary, "-c", self.pipeline.file, "feed", "run", name],
                                       stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                       env=self.pipeline.environment(env))
        self.processes.append(process)
        return process

    def documents(self, query=QUERY):
        """What the query gives now, by key."""
        rows = self.mirror.sql("select row_to_json(q)::text from (" + query.replace(
            "{keys}", "(select id from customers)") + ") q")
        return {d["id"]: d for d in (json.loads(row[0]) for row in rows)}

    def status(self, name="crm"):
        found = [f for f in self.pipeline.ok("feed", "status", "--json").json() if f["name"] == name]
        return found[0] if found else {"state": "not yet"}

    def dead(self, name="crm"):
        return sorted(self.pipeline.ok("feed", "dead", name, "--json").json(), key=lambda d: int(d["key"][0]))

    def wait_until_sent(self, name="crm", deadline=60):
        wait.until(lambda: self.status(name)["state"] == "up to date", lambda: str(self.status(name)), deadline)

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()


def lines(text):
    return [json.loads(line) for line in text.splitlines()]
