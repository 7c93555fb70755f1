"""Refresh: what wakes it, what a crash of the mirror takes with it, and who writes into the table besides."""

import re
import signal
import time

import pytest

from lib import wait
from lib.refresh import Refreshed

from test_refresh import BILL, BY_HAND, DAY, SHOP, shop  # noqa: F401

CLIENT = {"table": "public.customers", "key": ["id"], "watch": ["name"],
          "refresh": {"into": "report.client", "query": "select id, name from customers"}}


def looks(made, fact):
    """How often a refresher has asked whether there is something for the fact: the server's log has each statement."""
    return len(re.findall(rf"@{made.mirror.name} DETAIL: .*'tailwater/refresh', \$2 = '{fact}'", made.mirror.cluster.log))


def test_news_are_of_one_fact(shop):  # noqa: F811
    """A notification makes the fact due that it is about; the others are looked at every five seconds, as always."""
    made = shop({"client": CLIENT, "day": DAY}, run=False)
    # Statements with their parameters; of sessions that begin after this.
    made.mirror.sql(f"alter database {made.mirror.name} set log_statement = 'all'", user="postgres")
    made.pipeline.start().wait_until_caught_up()
    made.settle()
    client, day, began = looks(made, "client"), looks(made, "day"), time.monotonic()
    for number in range(25):
        made.source.sql("update customers set name = %s where id = 1", f"name {number}")
        wait.until(lambda n=number: made.mirror.value("select name from report.client where id = 1") == f"name {n}",
                   "the fact that there is news of")
    took = time.monotonic() - began
    assert looks(made, "client") - client >= 25
    # Each look is two questions at most: for fresh keys, and for a claim where there are some.
    assert looks(made, "day") - day <= 2 * (took / 5 + 1), f"in {took:.1f} s"


@pytest.mark.slow
def test_a_crash_of_the_mirror_takes_whole_refreshes(own_servers, source, mirror, make_pipeline):
    """No refresh waits for the disk: one that was seen may be gone after a crash, its acknowledgement with it; so it comes again."""
    own_servers.mirror.set(wal_writer_delay="10s")
    source.sql(SHOP)
    made = Refreshed(make_pipeline(facts={"bill": BILL, "day": DAY}, plugin="pgoutput", source={"heartbeat": "1h"}).publish())
    pipeline = made.pipeline.start().wait_until_caught_up()
    made.settle()
    lost = 0
    for number in range(12):
        amount = 100 + number
        source.sql("update bills set amount = %s where id in (1, 2); delete from bills where id = %s; "
                   "update payments set bill_id = 1 + bill_id %% 40 where id %% 5 = %s", amount, 10 + number, number % 5)
        wait.until(lambda a=amount: mirror.value("select amount from report.bill where id = 1") == a, "it is seen")
        if number % 2 == 0:
            pipeline.signal(signal.SIGSTOP)
        own_servers.mirror.stop("immediate")
        if number % 2 == 0:
            pipeline.kill()
        own_servers.mirror.start()
        if number % 2 == 0:
            lost += mirror.value("select amount from report.bill where id = 1") != amount
            pipeline.start()
        # Nothing is pending and everything equal: an acknowledgement without its rows would show.
        made.settle()
        if lost and number >= 3:
            break
    assert lost, "no crash came before the refresh was on the disk: this has shown nothing"
    pipeline.settle()


SWALLOW = """
    create function report.swallow() returns trigger language plpgsql as
        'begin if old.id = 8 then return null; end if; return new; end';
    create trigger swallow before update on report.bill for each row execute function report.swallow()"""


def test_a_trigger_that_leaves_rows_out(shop):  # noqa: F811
    """It would do so again and again: said at once, by name, with the remedy; nothing is acknowledged."""
    made = shop({"bill": BILL}, refresh=BY_HAND)
    made.once("bill")
    made.mirror.sql(SWALLOW, user="postgres")
    made.source.sql("update bills set amount = 77 where id in (7, 8)")
    made.pipeline.wait_until_caught_up()
    result = made.pipeline.verb("refresh", "bill", "--once")
    assert result.code == 1, repr(result)
    for word in ("2 rows of report.bill should have been written, and 1 were", "trigger swallow of report.bill", "drop it"):
        assert word in result.text.replace("\"", ""), repr(result)
    made.mirror.sql("drop trigger swallow on report.bill", user="postgres")
    assert made.once("bill")["updated"] == 2
    made.settle()


def test_somebody_else_who_writes_there(shop):  # noqa: F811
    """A few tries, and then it is an error: try again (75)."""
    made = shop({"bill": BILL}, refresh=BY_HAND)
    made.once("bill")
    # A policy that shows rows and lets nobody write them looks the same as a writer who is always faster.
    made.mirror.sql("alter table report.bill enable row level security, force row level security; "
                    "create policy shown on report.bill for select using (true)", user="postgres")
    made.source.sql("update bills set amount = 77 where id = 8")
    made.pipeline.wait_until_caught_up()
    result = made.pipeline.verb("refresh", "bill", "--once")
    assert result.code == 75 and "somebody else writes to report.bill" in result.text.replace("\"", ""), repr(result)
    made.mirror.sql("alter table report.bill disable row level security, no force row level security", user="postgres")
    assert made.once("bill")["updated"] == 1
    made.settle()
