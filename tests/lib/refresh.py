"""Derived tables that Tailwater keeps itself, and the question whether they equal their queries."""

from lib import wait

# {keys} where all of them are asked for.
ALL_KEYS = "(select distinct {0} from {1})"


class Refreshed:
    """A pipeline whose facts have refresh; statements on the source, and what the derived tables are."""

    def __init__(self, pipeline):
        self.pipeline, self.source, self.mirror = pipeline, pipeline.source, pipeline.mirror

    @property
    def facts(self):
        return {name: fact for name, fact in self.pipeline.keys["facts"].items() if "refresh" in fact}

    def once(self, fact, code=0):
        result = self.pipeline.verb("refresh", fact, "--once", "--json")
        assert result.code == code, repr(result)
        return result.json() if result.out else None

    def state(self, fact):
        """The fact's derived table as ledger status has it."""
        facts = self.pipeline.ok("ledger", "status", "--json").json()["facts"]
        return next(f["refresh"] for f in facts if f["name"] == fact)

    def is_done(self):
        """Nothing is owed, pending, in a backfill, or waiting for a fan-out: all at one moment, since one gives the other work."""
        name = self.pipeline.name
        return self.mirror.value("select to_regclass('tailwater.backfill')") is not None and self.mirror.value(
            "select (select count(*) from tailwater.refresh r join tailwater.fact f on f.name = r.fact where f.pipeline = %s) >= %s "
            "and not exists (select from tailwater.fan_out) "
            "and not exists (select from tailwater.backfill where state in ('running', 'paused')) "
            "and not exists (select from tailwater.consumer_states(%s, 1) where state <> 'up to date' "
            "and name = 'tailwater/refresh')", name, len(self.facts), name)

    def settle(self, deadline=60):
        """Until the mirror has all of the source, and nothing is left to refresh; all are equal then."""
        if self.pipeline.is_running:
            self.pipeline.wait_until_caught_up()
        wait.until(self.is_done, lambda: f"derived tables are up to date\n{self.states()}\n{self.pipeline.log_tail()}",
                   deadline)
        assert self.differences() == []

    def states(self):
        return self.mirror.sql("select * from tailwater.consumer_states(%s, 10)", self.pipeline.name), \
            self.mirror.sql("select * from tailwater.backfill"), self.mirror.sql(
                "select * from tailwater.refresh_failure limit 5")

    def differences(self):
        said = []
        for name, fact in self.facts.items():
            into, query = fact["refresh"]["into"], fact["refresh"]["query"]
            query = query.replace("{keys}", ALL_KEYS.format(list(fact["key"])[0], fact["table"]))
            columns = ", ".join(f'q."{row[0]}"' for row in self.mirror.sql(
                f"select column_name from information_schema.columns where table_schema || '.' || table_name = %s "
                "order by ordinal_position", into))
            one, other = f"select {columns} from {into} q", f"select {columns} from ({query}) q"
            for title, a, b in (("stale", one, other), ("missing", other, one)):
                rows = self.mirror.sql(f"select count(*), min(r::text) from ({a} except all {b}) r")
                if rows[0][0]:
                    said.append(f"{name}: {rows[0][0]} rows {title}, such as {rows[0][1]}")
        return said
