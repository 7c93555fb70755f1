"""How fresh tables are, how much of them changes, and what of that is unusual: counts, warnings, and no false ones."""

import contextlib
import json
import signal

import pytest

from e2e.test_http import Site, free_port
from lib import alerts, wait

HOURS = """select h.inserted, h.updated, h.deleted, h.truncated from tailwater.volume_hour h
           join tailwater.volume v on v.id = h.volume where v.name = %s order by h.hour"""
TOTAL = """select coalesce(sum(inserted), 0)::int, coalesce(sum(updated), 0)::int, coalesce(sum(deleted), 0)::int,
                  coalesce(sum(truncated), 0)::int
             from tailwater.volume_hour h join tailwater.volume v on v.id = h.volume where v.name = %s"""


@pytest.fixture
def orders(source):
    source.sql("create table orders (id int primary key, a int); create table others (id int primary key);"
               "insert into orders select i, 0 from generate_series(1, 20) i")


def freshness(pipeline, table="orders"):
    return next(t["freshness"] for t in pipeline.verb("status", "--json").json()["tables"] if t["name"] == table)


FREEZE = """create function public.keep_counted_to() returns trigger language plpgsql as
            $$begin new.counted_to := old.counted_to; return new; end$$;
            create trigger keep_counted_to before update of counted_to on tailwater.volume_clock for each row execute function public.keep_counted_to()"""


def freeze(mirror):
    """It is, and stays, half past the hour before, so that hours are where the test has them."""
    mirror.sql("update tailwater.volume_clock set counted_to = date_trunc('hour', clock_timestamp(), 'UTC') - interval '30 minutes'")
    mirror.sql(FREEZE)


def history(mirror, table, changes, *, days=34, every=1, silent=0, source="generate_series(%s, %s, %s) g(i)"):
    """Hours of the past: so many changes each, in every so-and-so-manieth, none in the last ones."""
    mirror.sql("""update tailwater.volume v set counted_from = c.counted_to - make_interval(days => %s), last_change = null,
                      unknown_to = null, open_hour = date_trunc('hour', c.counted_to, 'UTC') - interval '1 hour'
                   from tailwater.volume_clock c where name = %s""", days, table)
    mirror.sql("delete from tailwater.volume_hour h using tailwater.volume v where v.id = h.volume and v.name = %s", table)
    mirror.sql(f"""insert into tailwater.volume_hour
                  select v.id, h.at, %s, 0, 0, 0, h.at + interval '1 second', h.at + interval '59 minutes'
                    from tailwater.volume v join tailwater.volume_clock c using (pipeline), {source}
                    cross join lateral (select date_trunc('hour', c.counted_to, 'UTC') - make_interval(hours => i)) h(at)
                   where v.name = %s""", changes, silent + 1, days * 24, every, table)


def events(pipeline, event):
    return [line for line in pipeline.this_run().splitlines() if line.endswith(f"[{event}]")]


def seen(pipeline, event):
    wait.until(lambda: events(pipeline, event),
               lambda: f"no {event}\n{pipeline.mirror.sql('select * from tailwater.volume_states(%s)', pipeline.name)}")
    return events(pipeline, event)


# ---- counts ----

def test_what_is_counted(source, mirror, orders, make_pipeline, both_plugins):
    """Changes of the source as they were made, in the hours of their commits, stored at a clean end."""
    pipeline = make_pipeline().publish()
    pipeline.start().wait_until_caught_up()
    source.sql("begin; insert into orders values (30, 0); update orders set a = 1 where id = 30;"
               "update orders set a = 2 where id = 30; delete from orders where id = 30; commit")
    source.sql("insert into others select i from generate_series(1, 7) i")
    source.sql("update orders set id = 40 where id = 1")
    source.sql("truncate others")
    source.sql("insert into others values (1)")
    at = source.value("select clock_timestamp()")
    pipeline.wait_until_caught_up()
    pipeline.stop()
    assert mirror.sql(TOTAL, "orders") == [(1, 3, 1, 0)]
    assert mirror.sql(TOTAL, "others") == [(8, 0, 0, 1)]
    last = mirror.value("select max(last_at) from tailwater.volume_hour h join tailwater.volume v on v.id = h.volume")
    assert 0 <= (at - last).total_seconds() < 5, (at, last)
    assert mirror.value("select gap_at is null and counted_lsn = (select cursor from tailwater.clock) "
                        "from tailwater.volume_clock")

    # Nobody ran: what was done meanwhile counts once, for its own hour.
    source.sql("insert into orders values (50, 0)")
    pipeline.start().wait_until_caught_up()
    pipeline.stop()
    assert mirror.sql(TOTAL, "orders") == [(2, 3, 1, 0)]
    assert mirror.value("select gap_at is null from tailwater.volume_clock"), "it ended well"
    shown = freshness(pipeline)
    assert shown["state"] == "learning" and shown["last_change"]
    assert shown["this_hour_changes"] + (shown["last_hour_changes"] or 0) <= 6


def test_killed(source, mirror, orders, make_pipeline):
    """Counts of the last seconds are lost, never doubled, and the silence of no table begins before the gap."""
    pipeline = make_pipeline()
    pipeline.start().wait_until_caught_up()
    # Nothing is stored between the changes and the end.
    wait.until(lambda: mirror.value("select count(*) from tailwater.volume_clock") == 1, pipeline.log_tail)
    mirror.sql("alter table tailwater.volume_clock add constraint refused check (false) not valid")
    for i in range(5):
        source.sql("insert into orders values (%s, 0)", 100 + i)
    pipeline.wait_until_caught_up()
    pipeline.kill()
    mirror.sql("alter table tailwater.volume_clock drop constraint refused")
    before = mirror.sql(TOTAL, "orders")[0][0]
    pipeline.start().wait_until_caught_up()
    source.sql("insert into others values (1)")
    pipeline.wait_until_caught_up()
    pipeline.stop()
    assert mirror.sql(TOTAL, "orders")[0][0] == before <= 5
    assert mirror.sql(TOTAL, "others") == [(1, 0, 0, 0)]
    assert mirror.value("select gap_at is not null from tailwater.volume_clock")
    last = mirror.value("select commit_time from tailwater.clock")
    since = mirror.value("select since from tailwater.volume_states(%s) where name = 'orders'", pipeline.name)
    assert 0 <= (last - since).total_seconds() < 20


@pytest.mark.parametrize("trouble", ["error", "lock"])
def test_counts_cannot_be_stored(source, mirror, orders, make_pipeline, trouble):
    """The stream does not depend on them; changes that were not counted for sure are a gap."""
    pipeline = make_pipeline()
    pipeline.start().wait_until_caught_up()
    pipeline.stop()
    with contextlib.closing(mirror.connect(user="postgres")) as other:
        other.cursor().execute("lock table tailwater.volume in access exclusive mode" if trouble == "lock" else
                               "alter table tailwater.volume_clock add constraint refused check (false) not valid")
        if trouble == "error":
            other.commit()
        pipeline.start()
        source.sql("insert into orders values (60, 0)")
        wait.until(lambda: mirror.value("select count(*) from mirror_public.orders") == 21, pipeline.log_tail)
        wait.until(lambda: events(pipeline, "freshness_failed"), pipeline.log_tail)
        assert mirror.sql(TOTAL.replace("join tailwater.volume v on v.id = h.volume where v.name = %s", "")) == [(0, 0, 0, 0)]
        if trouble == "error":
            other.cursor().execute("alter table tailwater.volume_clock drop constraint refused")
        other.commit()
    wait.until(lambda: mirror.sql(TOTAL, "orders") == [(1, 0, 0, 0)], pipeline.log_tail)
    pipeline.stop()
    assert mirror.value("select gap_at is null and counted_lsn = (select cursor from tailwater.clock) "
                        "from tailwater.volume_clock"), "the session before had stored all, and so has this one"


def test_a_mirror_that_restarts(own_servers, source, mirror, orders, make_pipeline):
    """While the source is idle: nothing is lost, so no table's silence begins anew."""
    pipeline = make_pipeline(source={"heartbeat": "1s"})
    pipeline.start().wait_until_caught_up()
    source.sql("insert into orders values (60, 0)")
    wait.until(lambda: mirror.sql(TOTAL, "orders") == [(1, 0, 0, 0)], pipeline.log_tail)
    # After what is stored it goes on by heartbeats alone.
    mirror.sql("alter table tailwater.volume_clock add constraint refused check (false) not valid")
    wait.until(lambda: events(pipeline, "freshness_failed"), pipeline.log_tail)
    cursor = mirror.value("select cursor from tailwater.clock")
    wait.until(lambda: mirror.value("select cursor > %s::pg_lsn from tailwater.clock", cursor), pipeline.log_tail)
    own_servers.mirror.stop()
    own_servers.mirror.start()
    mirror.sql("alter table tailwater.volume_clock drop constraint refused")
    source.sql("insert into orders values (61, 0)")
    wait.until(lambda: mirror.sql(TOTAL, "orders") == [(2, 0, 0, 0)], pipeline.log_tail)
    assert mirror.value("select gap_at is null from tailwater.volume_clock")


def test_a_parcel_twice(source, mirror, orders, make_pipeline):
    """One whose commit was not heard of."""
    pipeline = make_pipeline()
    pipeline.ok("run", "--until", "now")
    lines = json.dumps([{"schema": "public", "name": "orders", "hour": 400000, "inserted": 3, "updated": 0, "deleted": 0,
                         "truncated": 0, "first_us": 1440000000000000, "last_us": 1440000000000001}])
    for nr, expected in ((1, 3), (1, 3), (2, 6)):
        mirror.sql("select tailwater.add_volumes(%s, 'test', %s, '0/1', null, %s::jsonb)", pipeline.name, nr, lines)
        assert mirror.value("select inserted from tailwater.volume_hour where hour < '2020-01-01'") == expected


# ---- what is unusual ----

@pytest.fixture
def watched(source, mirror, orders, make_pipeline):
    """A pipeline that ran once, so that there is something to give a past to; with its listener."""
    site = Site(free_port())
    pipeline = make_pipeline(http={"listen": f"127.0.0.1:{site.port}"})
    pipeline.site = site
    pipeline.start().wait_until_caught_up()
    pipeline.stop()
    return pipeline


def troubles(pipeline):
    return {(t["event"], t["subject"]) for t in pipeline.verb("status", "--json").json()["troubles"]}


def raised(pipeline):
    samples = [(key[0], {}, value) for key, value in pipeline.site.metrics().items() if len(key) == 1]
    samples += [("tailwater_trouble", {"event": key[1], "subject": key[2]}, value)
                for key, value in pipeline.site.metrics().items() if key[0] == "tailwater_trouble"]
    return alerts.raised(samples)


def test_quiet(source, mirror, watched):
    """For two weeks it changed every hour; now it has not for six.  A change ends it."""
    freeze(mirror)
    history(mirror, "orders", 50, silent=6)
    history(mirror, "others", 50)
    watched.start()
    line = seen(watched, "table_quiet")
    assert len(line) == 1 and "public.orders" in line[0] and "longest" in line[0]
    assert freshness(watched)["state"] == "quiet" and freshness(watched, "others")["state"] == "usual"
    assert troubles(watched) == {("table_quiet", "public.orders")}
    status = watched.verb("status", "--json").json()
    assert status["level"] == "warning" and status["state"] == "table quiet" and "public.orders" in status["message"]
    assert "public.orders" in watched.verb("status").out and watched.verb("status").code == 0
    wait.until(lambda: "TailwaterQuiet" in raised(watched), lambda: watched.site.metrics())
    assert watched.site.get("/readyz")[0] == 200, "the mirror is as good as its source"
    source.sql("update orders set a = 5 where id = 2")
    seen(watched, "table_fresh")
    assert troubles(watched) == set() and len(events(watched, "table_quiet")) == 1


def test_reloaded(mirror, watched):
    """What is said by HTTP is judged by the configuration as it was read last."""
    freeze(mirror)
    history(mirror, "orders", 50, silent=6)
    watched.start()
    seen(watched, "table_quiet")
    wait.until(lambda: "TailwaterQuiet" in raised(watched), lambda: watched.site.metrics())
    watched.keys["freshness"] = {"watch": "off"}
    watched.write_config()
    watched.signal(signal.SIGHUP)
    seen(watched, "reloaded")
    wait.until(lambda: "TailwaterQuiet" not in raised(watched), lambda: watched.site.metrics())
    wait.until(lambda: not json.loads(watched.site.get("/status")[1])["troubles"], lambda: watched.site.get("/status"))


def test_hours(mirror, watched):
    """Far more, and far less, than this time of day ever had."""
    freeze(mirror)
    for table, last in (("orders", 40000), ("others", 10)):
        history(mirror, table, 1000)
        mirror.sql("update tailwater.volume_hour h set inserted = %s from tailwater.volume v where v.id = h.volume "
                   "and v.name = %s and h.hour = (select max(hour) from tailwater.volume_hour i where i.volume = v.id)", last, table)
    watched.start()
    assert "public.orders had 40000 changes" in seen(watched, "volume_high")[0]
    assert "public.others had 10 changes" in seen(watched, "volume_low")[0]
    assert troubles(watched) == {("volume_high", "public.orders"), ("volume_low", "public.others")}
    shown = freshness(watched)
    assert shown["usual_of"] == "time of day" and shown["last_hour_changes"] == 40000
    assert shown["usual_low"] == shown["usual_median"] == shown["usual_high"] == shown["usual_most"] == 1000

    def measured():
        values = watched.site.metrics()
        return [values.get((f"tailwater_table_hour_changes{end}", "public.orders")) for end in ("", "_usual_high")]
    wait.until(lambda: measured() == [40000, 1000], measured)


def test_nobody_cries_wolf(source, mirror, make_pipeline):
    """Nights and weekends, one load a day, a table that changes by chance, too short a past: nothing is said of them."""
    names = ["nights", "daily", "chance", "young", "noisy"]
    source.sql("; ".join(f"create table {name} (id int primary key)" for name in names))
    pipeline = make_pipeline()
    pipeline.ok("run", "--until", "now")
    freeze(mirror)
    history(mirror, "nights", 500, source="""(select g.i from generate_series(%s, %s, %s) g(i)
        where extract(isodow from now() - make_interval(hours => g.i + 1)) < 6
          and extract(hour from now() - make_interval(hours => g.i + 1)) between 8 and 18) g(i)""")
    history(mirror, "daily", 100000, every=24, silent=20)
    history(mirror, "chance", 3, days=4, silent=50)
    history(mirror, "young", 5000, days=1, silent=8)
    history(mirror, "noisy", 700)
    mirror.sql("update tailwater.volume_hour h set inserted = 300 + (random() * 1500)::int from tailwater.volume v "
               "where v.id = h.volume and v.name = 'noisy'")
    pipeline.start()
    wait.until(lambda: all(freshness(pipeline, name)["last_hour"] for name in names), lambda: freshness(pipeline, "young"))
    assert {name: freshness(pipeline, name)["state"] for name in names} == {
        "nights": "usual", "daily": "usual", "chance": "usual", "young": "learning", "noisy": "usual"}
    assert troubles(pipeline) == set()
    assert not any(events(pipeline, event) for event in ("table_quiet", "table_stale", "volume_low", "volume_high"))


def test_a_bound(source, mirror, orders, make_pipeline):
    """max_age warns for sure: with no past at all, and also where nothing is learned."""
    pipeline = make_pipeline(tables=["public.*", {"name": "public.orders", "freshness": {"max_age": "2h", "watch": "off"}}],
                             freshness={"watch": "off"})
    pipeline.ok("run", "--until", "now")
    mirror.sql("update tailwater.volume set counted_from = clock_timestamp() - interval '3 hours'")
    pipeline.start()
    line = seen(pipeline, "table_stale")
    assert len(line) == 1 and "public.orders" in line[0] and "max_age is 2 h" in line[0]
    assert troubles(pipeline) == {("table_stale", "public.orders")}
    assert freshness(pipeline, "others")["state"] == "not watched"
    source.sql("update orders set a = 5 where id = 2")
    seen(pipeline, "table_fresh")


def test_who_is_late(mirror, orders, make_pipeline):
    """A pipeline that is behind, or stands, says nothing of its tables: as of then they were fresh."""
    pipeline = make_pipeline(freshness={"max_age": "2h"})
    pipeline.ok("run", "--until", "now")
    mirror.sql("update tailwater.volume set counted_from = clock_timestamp() - interval '6 hours'")
    mirror.sql("update tailwater.volume_clock set counted_to = clock_timestamp() - interval '5 hours'")
    assert troubles(pipeline) == set() and freshness(pipeline)["state"] == "learning"
    mirror.sql("update tailwater.volume_clock set counted_to = clock_timestamp() - interval '3 hours'")
    assert troubles(pipeline) == {("table_stale", "public.orders"), ("table_stale", "public.others")}


def test_all_at_once(source, mirror, make_pipeline):
    """Thirty tables that fall silent have one cause: one trouble, one line."""
    source.sql("; ".join(f"create table t{i} (id int primary key)" for i in range(30)))
    pipeline = make_pipeline(freshness={"max_age": "1h"})
    pipeline.ok("run", "--until", "now")
    mirror.sql("update tailwater.volume set counted_from = clock_timestamp() - interval '3 hours'")
    pipeline.start()
    line = seen(pipeline, "table_stale")
    assert len(line) == 1 and "30 tables are stale" in line[0]
    assert troubles(pipeline) == {("table_stale", pipeline.name)}


def test_quarantined(source, mirror, orders, make_pipeline):
    """What is left out is not counted, and not judged; its silence begins when it is back."""
    pipeline = make_pipeline(freshness={"max_age": "1h"})
    pipeline.start().wait_until_caught_up()
    mirror.sql("alter table mirror_public.orders add check (a < 1000)")
    source.sql("insert into orders values (60, 5000)")
    wait.until(lambda: pipeline.verb("status", "--json").json()["state"] == "quarantine", pipeline.log_tail)
    mirror.sql("update tailwater.volume set counted_from = clock_timestamp() - interval '3 hours', last_change = null")
    assert freshness(pipeline)["state"] == "unknown"
    assert mirror.sql(TOTAL, "orders") == [(0, 0, 0, 0)]
    wait.until(lambda: mirror.value("select unknown_to is not null from tailwater.volume where name = 'orders'"), pipeline.log_tail)
    mirror.sql("alter table mirror_public.orders drop constraint orders_a_check")
    pipeline.ok("resync", "public.orders")
    assert freshness(pipeline)["state"] == "learning"


def test_shape(source, mirror, orders, make_pipeline):
    """When, and which, the last change of a table's shape was."""
    site = Site(free_port())
    pipeline = make_pipeline(schema_changes="apply", http={"listen": f"127.0.0.1:{site.port}"})
    pipeline.start().wait_until_caught_up()
    key = ("tailwater_table_schema_change_time_seconds", "public.orders")
    wait.until(lambda: ("tailwater_table_ready", "public.orders") in site.metrics(), site.metrics)
    assert key not in site.metrics()
    source.sql("alter table orders add note text; insert into orders values (90, 0, 'x')")

    def shown():
        return {t["name"]: t["schema_change"] for t in json.loads(site.get("/status")[1]).get("tables", [])}
    wait.until(lambda: shown().get("orders"), pipeline.log_tail)
    assert "note" in shown()["orders"] and shown()["others"] is None
    assert shown()["orders"] in seen(pipeline, "table_changed")[0]
    age = source.value("select extract(epoch from clock_timestamp())") - int(site.metrics()[key])
    assert -1 <= age < 60


def test_facts(source, mirror, orders, make_pipeline):
    """Keys by the hour: their time, and a fan-out of more than ever."""
    site = Site(free_port())
    pipeline = make_pipeline(facts={"order": {"table": "public.orders", "key": ["id"]}},
                             http={"listen": f"127.0.0.1:{site.port}"})
    pipeline.start().wait_until_caught_up()
    source.sql("update orders set a = 7 where id < 4")
    pipeline.wait_until_caught_up()
    # Statistics are stored every few seconds; a stop does not wait for them for long.
    wait.until(lambda: mirror.value("select sum(keys_written) from tailwater.dimension_statistic") == 3, pipeline.log_tail)
    pipeline.stop()
    fact = pipeline.verb("status", "--json").json()["facts"][0]
    assert fact["name"] == "order" and fact["state"] == "learning" and fact["last_keys"]
    assert fact["this_hour_keys"] in (0, 3), "the hour may have ended"
    assert "order: the newest of" in pipeline.verb("status").out

    mirror.sql("""update tailwater.fact_volume set counted_from = clock_timestamp() - interval '40 days',
                                                 open_hour = clock_timestamp() - interval '1 day';
                  update tailwater.volume_clock set late_at = null;
                  delete from tailwater.dimension_statistic;
                  insert into tailwater.dimension_statistic (fact, node, hour, keys_written)
                  select 'order', 0, date_trunc('hour', clock_timestamp() - interval '1 minute', 'UTC') - make_interval(hours => i),
                         case when i = 1 then 50000 else 1000 end from generate_series(1, 800) i;
                  select tailwater.judge_fact_volumes('""" + pipeline.name + """');
                  update tailwater.fact_volume set open_hour = open_hour + interval '10 hours'""")
    pipeline.start()
    assert "fact order had 50000 keys" in seen(pipeline, "volume_high")[0]
    assert troubles(pipeline) == {("volume_high", "fact order")}
    wait.until(lambda: site.metrics().get(("tailwater_fact_hour_keys", "order")) == 50000, site.metrics)
    assert site.metrics()[("tailwater_fact_hour_keys_usual_high", "order")] == 1000

    # It stood meanwhile: how many keys are written in an hour says nothing then.
    pipeline.stop()
    mirror.sql("update tailwater.volume_clock set stored_at = clock_timestamp() - interval '1 hour'")
    mirror.sql("update tailwater.fact_volume set open_hour = date_trunc('hour', clock_timestamp(), 'UTC')")
    pipeline.start()
    wait.until(lambda: not troubles(pipeline), lambda: mirror.sql("select * from tailwater.volume_clock"))
