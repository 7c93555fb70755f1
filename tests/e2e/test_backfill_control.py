"""Backfills and refreshes under control: paused, resumed, cancelled, in parallel, at rest, not too often."""

from lib import wait

from test_refresh import BILL, BY_HAND, DAY, SHOP, shop  # noqa: F401

SLOW = {  # each statement of it takes a fifth of a second, whatever the number of keys
    "table": "public.bills", "key": ["id"], "watch": ["amount"],
    "refresh": {"into": "report.slow", "query":
                "select b.id, b.amount, (select count(*) from pg_sleep(0.2)) as n from bills b"}}


def left_after(made, chunks):
    """A backfill of which so many chunks are done, since whoever worked on it was killed; its number."""
    result = made.pipeline.verb("backfill", "bill", "--all", "--chunk", "1",
                                env={"TAILWATER_FAULT": f"backfill_after_commit:{chunks}=kill"})
    assert result.code == -9
    return str(made.mirror.value("select max(id) from tailwater.backfill"))


def done(made, backfill):
    return made.mirror.value("select count(*) from tailwater.backfill_chunk where backfill = %s and state = 'done'", backfill)


def test_pause_and_resume(shop):  # noqa: F811
    made = shop({"bill": BILL}, refresh=BY_HAND)
    made.once("bill")
    made.mirror.sql("update report.bill set paid = -1")
    one = left_after(made, 3)
    assert "paused" in made.pipeline.ok("backfill", "bill", "--pause", one).out
    made.source.sql("update bills set amount = 5 where id = 40")
    made.pipeline.wait_until_caught_up()
    assert made.once("bill")["keys"] == 1, "fresh keys, and no chunk"
    assert done(made, one) == 3
    assert made.state("bill")["backfill_state"] == "paused"

    result = made.pipeline.ok("backfill", "bill", "--resume", one, "--json").json()
    assert (result["state"], result["done"], result["chunks"]) == ("done", 40, 40)
    made.settle()
    again = made.pipeline.verb("backfill", "bill", "--pause", one)
    assert again.code == 2 and "is under way" in again.err


def test_cancel(shop):  # noqa: F811
    """What is done stays done; it can be done whatever has become of the query."""
    made = shop({"bill": BILL}, refresh=BY_HAND)
    made.once("bill")
    made.mirror.sql("update report.bill set paid = -1")
    one = left_after(made, 3)
    made.pipeline.keys["facts"] = {"bill": {**BILL, "refresh": {"into": "report.bill", "query": "select nothing"}}}
    made.pipeline.write_config()
    assert made.pipeline.ok("backfill", "bill", "--cancel", one, "--json").json()["state"] == "cancelled"
    made.pipeline.keys["facts"] = {"bill": BILL}
    made.pipeline.write_config()
    made.once("bill")
    assert done(made, one) == 3
    assert made.mirror.value("select count(*) from report.bill where paid = -1") == 37
    assert made.state("bill")["state"] == "ok", "a part of a history was wanted, and not any more"
    assert made.pipeline.verb("backfill", "bill", "--cancel", one).code == 2
    made.pipeline.ok("backfill", "bill", "--all")
    made.settle()


def options(made):
    return made.mirror.value("select reloptions from pg_class where oid = 'report.bill'::regclass")


def test_killed_before_a_build_has_ended(shop):  # noqa: F811
    """Its last chunk is done, and nobody has said so: whoever comes next does."""
    made = shop({"bill": BILL}, refresh=BY_HAND)
    kill = {"TAILWATER_FAULT": "backfill_after_commit=kill"}
    assert made.pipeline.verb("refresh", "bill", "--once", env=kill).code == -9
    assert options(made) == ["fillfactor=81"]
    made.once("bill")
    assert options(made) == ["fillfactor=90"]
    made.settle()


def test_a_build_whose_end_is_refused(shop):  # noqa: F811
    """A table that cannot be altered is built all the same: each chunk is done, and a warning says the rest."""
    made = shop({"bill": BILL}, refresh=BY_HAND)
    made.mirror.sql("""create function public.refuse() returns event_trigger language plpgsql as $$begin
                         if exists (select from pg_class where oid = to_regclass('report.bill') and reloptions @> '{fillfactor=90}') then
                           raise 'nobody alters tables today';
                         end if; end$$;
                       create event trigger refuse on ddl_command_end when tag in ('ALTER TABLE') execute function public.refuse()""")
    result = made.pipeline.ok("refresh", "bill", "--once")
    assert "[fillfactor_kept]" in result.text and "nobody alters tables today" in result.text, repr(result)
    assert made.mirror.sql("select b.state, c.state, c.error from tailwater.backfill b join tailwater.backfill_chunk c on c.backfill = b.id") \
        == [("done", "done", None)]
    assert options(made) == ["fillfactor=81"]
    made.settle()


def test_a_cancelled_rebuild(shop):  # noqa: F811
    """The table says that it is not whole, until it is."""
    made = shop({"bill": BILL}, refresh=BY_HAND)
    kill = {"TAILWATER_FAULT": "backfill_before_commit=kill"}
    assert made.pipeline.verb("refresh", "bill", "--once", env=kill).code == -9
    one = str(made.mirror.value("select id from tailwater.backfill where kind = 'everything' and state = 'running'"))
    said = made.pipeline.ok("backfill", "bill", "--cancel", one).out
    assert "cancelled" in said and "tailwater refresh bill --once" in said
    assert made.state("bill")["state"] == "incomplete"
    assert "it was not computed to its end" in made.pipeline.ok("ledger", "status").out
    assert made.mirror.value("select count(*) from report.bill") == 0

    assert made.once("bill")["inserted"] == 40
    assert made.state("bill")["state"] == "ok"
    assert made.once("bill")["windows"] == 0, "once"
    made.settle()


def spans(made, backfill):
    """Pairs of chunks that were in work at the same time; seconds from the first to the end of the last."""
    return made.mirror.sql(
        "select count(*) filter (where o.nr is not null), extract(epoch from max(c.ended_at) - min(c.started_at))::float "
        "from tailwater.backfill_chunk c left join tailwater.backfill_chunk o on o.backfill = c.backfill and o.nr < c.nr "
        "and o.started_at < c.ended_at and c.started_at < o.ended_at where c.backfill = %s", backfill)[0]


def test_parallel_and_share(shop):  # noqa: F811
    made = shop({"slow": SLOW}, sql=SHOP + "; delete from bills where id > 4", refresh=BY_HAND)
    made.once("slow")

    def run(*options):
        result = made.pipeline.ok("backfill", "slow", "--all", "--chunk", "1", *options, "--json").json()
        assert (result["done"], result["state"]) == (4, "done")
        return spans(made, result["backfill"])

    assert run("--parallel", "4")[0] > 0
    together, alone = run()
    assert together == 0 and alone >= 0.8
    together, rested = run("--share", "25")
    assert together == 0 and rested >= 0.8 + 3 * 0.6, "three rests of three times as long as the chunk before"


def test_every(shop):  # noqa: F811
    """Not more often than that, whatever happens; others are not held up by it."""
    seldom = {**BILL, "refresh": {**BILL["refresh"], "every": "1h"}}
    made = shop({"bill": seldom, "day": DAY})
    made.settle()
    windows = made.state("bill")["windows"]
    for amount in (101, 102, 103):
        made.source.sql("update bills set amount = %s where id = 1", amount)
        wait.until(lambda a=amount: made.mirror.value("select max(total) from report.day where day = '2024-01-02'") >= a,
                   "the fact without every")
    assert made.state("bill")["windows"] <= windows + 1
    assert made.mirror.value("select amount from report.bill where id = 1") < 103


def test_several_rows_where_one_belongs(shop):  # noqa: F811
    """A query that gives a key twice fails for that key, and says what to do."""
    twice = {**BILL, "refresh": {"into": "report.bill", "query":
                                 "select b.id, p.paid from bills b join payments p on p.bill_id = b.id"}}
    made = shop({"bill": twice}, sql=SHOP + "; delete from payments where bill_id = 2 or id > 40; "
                "insert into payments values (100, 7, 1)", refresh=BY_HAND)
    then = made.once("bill", code=3)
    assert (then["failed"], then["inserted"]) == (1, 38)
    state = made.state("bill")
    assert state["failure_key"] == ["7"] and "several rows with the same" in state["failure_error"]
    # One that stands there already, beside one that has merely changed.
    made.source.sql("insert into payments values (101, 8, 1); update payments set paid = 5000 where bill_id = 9")
    made.pipeline.wait_until_caught_up()
    stood = made.mirror.sql("select * from report.bill where id = 8")
    then = made.once("bill", code=3)
    assert (then["failed"], then["updated"]) == (1, 1)
    assert made.mirror.sql("select * from report.bill where id = 8") == stood
    assert made.mirror.value("select count(*) from tailwater.refresh_failure where error ~ 'several rows with the same'") == 2


def test_further_indexes_and_triggers(shop):  # noqa: F811
    """A table with a unique index or a trigger of its own is kept, too."""
    made = shop({"bill": BILL}, refresh=BY_HAND)
    made.once("bill")
    made.mirror.sql("create unique index on report.bill (amount)", user="postgres")
    made.source.sql("delete from bills where id = 3; update bills set amount = 3 where id = 4; "
                    "insert into bills values (50, 1, 4, '2024-01-01', '')")
    made.pipeline.wait_until_caught_up()
    made.once("bill")
    made.settle()
    made.mirror.sql("alter table report.bill add column changed int default 0; "
                    "create function report.count() returns trigger language plpgsql as "
                    "'begin new.changed := old.changed + 1; return new; end'; "
                    "create trigger count before update on report.bill for each row execute function report.count()",
                    user="postgres")
    made.source.sql("update bills set amount = 77 where id = 8")
    made.pipeline.wait_until_caught_up()
    assert made.once("bill")["updated"] == 1
    assert made.mirror.sql("select id, amount, changed from report.bill where changed <> 0 or amount = 77") == [(8, 77, 1)]
