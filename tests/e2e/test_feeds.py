"""Feeds: what was changed arrives, once it can, and nothing else does."""

import gzip
import hashlib
import hmac
import json
import os
import re
import signal

import pytest

from lib import wait
from lib.cluster import READER, REPLICATOR, ROOT
from lib.pipeline import to_yaml
from lib.shop import lines

def test_standard_output(shop):
    """Everything first; then what changed, as it is; what vanished, once; what did not change, never."""
    shop.feed({"stdout": True})
    out = lines(shop.run().out)
    assert sorted(d["id"] for d in out) == list(range(1, 21))
    assert {d["id"]: d for d in out} == shop.documents() and list(out[0]) == ["id", "name", "total"]
    assert shop.run().out == ""
    shop.change("update orders set total = total + 1 where id = 7", "update customers set note = 'other' where id = 3",
                "update customers set name = 'x', note = 'y' where id = 4", "insert into customers values (99, 'new')",
                "delete from customers where id = 5")
    out = lines(shop.run().out)
    assert sorted(out, key=lambda d: d["id"]) == [
        {"id": 4, "name": "x", "total": 69}, {"id": 5, "_deleted": True}, {"id": 8, "name": "c8", "total": 82},
        {"id": 99, "name": "new", "total": 0}]
    # Changed and changed back, and a key that came and went between two windows: there is nothing to say.
    shop.change("update customers set name = 'z' where id = 4", "insert into customers values (100, 'brief')")
    shop.change("update customers set name = 'x' where id = 4", "delete from customers where id = 100")
    assert shop.run().out == ""
    found = shop.status()
    assert (found["sent"], found["dead"], found["state"]) == (24, 0, "not running") and found["unchanged"] >= 2
    shop.change("truncate customers")
    assert sorted(d["id"] for d in lines(shop.run().out)) == [*range(1, 5), *range(6, 21), 99]
    assert shop.run().out == ""


def test_a_receiver_over_http(shop, receiver):
    """Arrays, headers, credentials, signature, compression and envelope, over one connection; nothing private is
    told to anybody but the receiver."""
    env = {"CRM_KEY": "key-4711", "CRM_TOKEN": "token-4712", "CRM_SECRET": "secret-4713"}
    shop.feed({"url": receiver.url + "?key=${CRM_KEY}", "headers": {"X-Api-Key": "${CRM_KEY}"}, "bearer": "${CRM_TOKEN}",
               "gzip": True, "hmac": {"secret": "${CRM_SECRET}"},
               "envelope": '{"feed": {feed}, "epoch": {epoch}, "batch": {batch}, "id": {idempotency_key}, "records": {records}}'},
              batch=8)
    os.environ.update(env)
    try:
        shop.run()
        assert receiver.table == shop.documents()
        assert [len(r["documents"]) for r in receiver.requests] == [8, 8, 4]
        for request in receiver.requests:
            headers, parsed = request["headers"], request["parsed"]
            assert headers["X-Api-Key"] == "key-4711" and headers["Authorization"] == "Bearer token-4712"
            assert headers["X-Tailwater-Signature"] == "sha256=" + hmac.new(
                b"secret-4713", gzip.decompress(request["raw"]), hashlib.sha256).hexdigest()
            assert headers["Idempotency-Key"] == parsed["id"] and parsed["feed"] == headers["Tailwater-Feed"] == "crm"
            assert parsed["epoch"] == headers["Tailwater-Epoch"] and str(parsed["batch"]) == headers["Tailwater-Batch"]
            assert all(r["idempotency_key"].startswith(f'{parsed["epoch"]}-{parsed["batch"]}-') and
                       r["version"] >= parsed["batch"] and not r["vanished"] and r["key"] == f'{{{r["document"]["id"]}}}'
                       for r in parsed["records"])
        assert len({r["headers"]["Idempotency-Key"] for r in receiver.requests}) == 3
        receiver.behave = lambda number, documents: (401, "who is token-4712?", {})
        shop.change("update customers set name = 'x' where id = 1")
        process = shop.start()
        wait.until(lambda: shop.status()["state"] == "blocked", "the feed is blocked")
        assert shop.status()["reason"].startswith("HTTP 401")
        receiver.behave = lambda number, documents: None
        wait.until(lambda: receiver.table == shop.documents(), "it goes on")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        said = shop.pipeline.log.replace('"HTTP 401: who is token-4712?"', "")  # status says what the receiver said
        assert not any(value in said for value in env.values())
        state = str(shop.mirror.sql("select * from tailwater.feed"))
        assert "key-4711" not in state and "secret-4713" not in state
    finally:
        for name in env:
            del os.environ[name]


@pytest.mark.parametrize("point", ["feed_after_intend", "feed_after_answer", "feed_before_commit"])
def test_killed(shop, receiver, point):
    """Between any two of its steps; what went back to what it was, or vanished, meanwhile is not forgotten."""
    shop.feed({"url": receiver.url})
    shop.run()
    shop.change("update customers set name = 'v1' where id = 1", "insert into customers values (300, 'new')",
                "delete from customers where id = 2")
    before = shop.documents()
    process = shop.start(env={"TAILWATER_FAULT": f"{point}=kill"})
    assert process.wait(30) == -signal.SIGKILL
    shop.change("update customers set name = 'c1' where id = 1", "delete from customers where id = 300")
    shop.run()
    assert receiver.table == shop.documents()
    assert before != shop.documents()
    assert shop.run().out == "" and shop.status()["pending_keys"] == 0


def test_refused_documents(shop, receiver):
    """They do not hold up the others; they are tried again, kept with the answer, and superseded by a change."""
    bad = {3, 11, 12}

    def behave(number, documents):
        wrong = [d["id"] for d in documents if d["id"] in bad]
        return (422, f"name of {wrong[0]} is\nbad", {}) if wrong else None

    receiver.behave = behave
    shop.feed({"url": receiver.url})
    shop.run()
    wait.until(lambda: shop.run() and shop.status()["dead"] == 3, lambda: str(shop.dead()))
    assert set(receiver.table) == set(shop.documents()) - bad
    dead = shop.dead()
    assert [(d["key"], d["attempts"], d["next_at"], d["answer"]) for d in dead] == [
        ([str(k)], 3, None, f"HTTP 422: name of {k} is bad") for k in (3, 11, 12)]
    shop.change("update customers set name = 'y' where id = 1")
    shop.run()
    assert receiver.table[1]["name"] == "y" and shop.status()["dead"] == 3
    # A newer change is sent as any other, and supersedes the dead letter.
    bad.remove(3)
    shop.change("update customers set name = 'good' where id = 3")
    shop.run()
    assert receiver.table[3]["name"] == "good" and [d["key"] for d in shop.dead()] == [["11"], ["12"]]
    bad.remove(11)
    assert "1 documents" in shop.pipeline.ok("feed", "retry", "crm", "11").out
    shop.run()
    assert 11 in receiver.table and [d["key"] for d in shop.dead()] == [["12"]]
    bad.clear()
    shop.pipeline.ok("feed", "retry", "crm")
    shop.run()
    assert receiver.table == shop.documents() and shop.dead() == []
    assert "no rows" not in shop.pipeline.ok("feed", "dead", "crm").text


def test_what_is_known_of_keys_is_looked_up(shop):
    """However much a feed learns in one session, from nothing: a slice of keys costs what the slice costs, not what
    is known."""
    count, batch = 6000, 100
    shop.change(f"insert into customers select i, 'c' from generate_series(1000, {999 + count}) i")
    shop.mirror.sql("alter table tailwater.feed_sent set (autovacuum_enabled = off)")  # which would have it planned anew
    shop.feed({"stdout": True}, batch=batch)
    assert len(lines(shop.run().out)) == count + 20
    shop.mirror.sql("select pg_stat_force_next_flush()")
    read = int(shop.mirror.value("select idx_tup_read from pg_stat_all_indexes where indexrelname = 'feed_sent_pkey'"))
    assert read < 6 * count, f"{read} entries read for {count} keys"


def test_too_many_dead_letters_pause_it(shop, receiver):
    receiver.behave = lambda number, documents: (400, "no", {})
    shop.feed({"url": receiver.url}, max_dead=5, retry={"attempts": 1, "first": "20ms", "longest": "1s"})
    process = shop.start()
    wait.until(lambda: shop.status()["state"] == "paused", "it is paused")
    assert shop.status()["reason"] == "more than 5 documents were refused for good; the last answer: HTTP 400: no"
    receiver.behave = lambda number, documents: None
    shop.change("update customers set name = 'later' where id = 1")
    assert receiver.table == {}
    shop.pipeline.ok("feed", "retry", "crm")
    assert shop.pipeline.ok("feed", "resume", "crm").out == "crm: resumed\n"
    wait.until(lambda: receiver.table == shop.documents(), "it has gone on")
    assert "feed_paused" in shop.pipeline.log and process.poll() is None


def test_pause_resume_resend_dry_run_drop(shop, receiver):
    shop.feed({"url": receiver.url})
    shop.run()
    count = len(receiver.requests)
    assert lines(shop.pipeline.ok("feed", "crm", "--dry-run", "7", "8", "4711").out) == [
        shop.documents()[7], shop.documents()[8], {"id": 4711, "_deleted": True}]
    assert len(receiver.requests) == count
    process = shop.start()
    shop.pipeline.ok("feed", "pause", "crm", "the CRM is being moved")
    shop.change("update customers set name = 'x' where id = 1")
    assert shop.status()["reason"] == "the CRM is being moved"
    shop.pipeline.ok("feed", "resume", "crm")
    wait.until(lambda: receiver.table == shop.documents(), "it has gone on")
    sent = shop.status()["sent"]
    assert "2 keys" in shop.pipeline.ok("feed", "crm", "--resend", "3", "4").out
    wait.until(lambda: shop.status()["sent"] == sent + 2, lambda: str(shop.status()))
    shop.pipeline.ok("feed", "crm", "--resend", "--all")
    wait.until(lambda: shop.status()["sent"] == sent + 22, lambda: str(shop.status()))
    again = shop.pipeline.verb("feed", "run", "crm")
    assert again.code == 7 and "run by another process" in again.text
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    shop.pipeline.ok("feed", "drop", "crm")
    assert shop.pipeline.ok("feed", "status", "--json").json() == []
    assert shop.mirror.value("select count(*) from tailwater.consumer") == 0


def test_the_replicator_runs_it(shop, receiver):
    """As one of its threads, through its own death; a file without the source is enough for a process of its own."""
    shop.feed({"url": receiver.url}, run="auto")
    shop.pipeline.stop()
    shop.pipeline.start().wait_until_caught_up()
    wait.until(lambda: receiver.table == shop.documents(), "everything has arrived")
    for i in range(3):
        shop.source.sql(f"update customers set name = 'n{i}' where id <= 10")
        shop.pipeline.kill()
        shop.pipeline.start()
        shop.source.sql(f"update orders set total = {i} where id = 1")
    shop.pipeline.wait_until_caught_up()
    wait.until(lambda: receiver.table == shop.documents(), "it has arrived")
    wait.until(lambda: shop.status()["latency_ms"] is not None, "the latency is measured")
    text = shop.pipeline.ok("feed", "status").out
    assert "crm: fact customer to POST http://127.0.0.1" in text and "from commit to request: median" in text
    assert shop.pipeline.verb("feed", "run", "crm", "--until", "now").code == 7


def test_a_role_of_its_own(shop, receiver):
    """It may run feeds and read what it was granted; the file knows no source."""
    shop.feed({"url": receiver.url})
    config = shop.pipeline.config()
    alone = {"pipeline": shop.pipeline.name, "mirror": {"conninfo": shop.mirror.conninfo(READER)},
             "feeds": config["feeds"]}
    shop.pipeline.write_config(to_yaml(alone) + "\n")
    refused = shop.pipeline.verb("feed", "run", "crm", "--until", "now")
    assert refused.code != 0 and "grant_feed" in refused.text
    shop.mirror.sql("select tailwater.grant_feed(%s)", READER, user=REPLICATOR)
    shop.mirror.sql(f"grant select on public.customers, public.orders to {READER}", user=REPLICATOR)
    shop.run()
    assert receiver.table == shop.documents() and shop.status()["sent"] == 20
    shop.mirror.sql("select tailwater.revoke_consumer(%s)", READER, user=REPLICATOR)


def test_commands_and_their_exit_codes(shop, tmp_path):
    script = tmp_path / "to-crm"
    script.write_text("#!/bin/sh\n"
                      f"cat > {tmp_path}/in.$$\n"
                      f"echo $TAILWATER_FEED $TAILWATER_DOCUMENTS $TAILWATER_IDEMPOTENCY_KEY >> {tmp_path}/calls\n"
                      f"if [ -e {tmp_path}/later ]; then rm {tmp_path}/later; exit 75; fi\n"
                      f"if grep -q '\"id\":7,' {tmp_path}/in.$$; then echo no sevens >&2; exit 3; fi\n"
                      f"cat {tmp_path}/in.$$ >> {tmp_path}/taken\n")
    script.chmod(0o755)
    (tmp_path / "later").touch()
    shop.feed({"command": [str(script)]}, retry={"attempts": 1, "first": "20ms", "longest": "1s"})
    shop.run()
    taken = {d["id"]: d for d in lines((tmp_path / "taken").read_text())}
    assert taken == {k: d for k, d in shop.documents().items() if k != 7}
    assert [(d["key"], d["answer"]) for d in shop.dead()] == [(["7"], "exit 3: no sevens")]
    calls = [line.split() for line in (tmp_path / "calls").read_text().splitlines()]
    assert calls[0] == calls[1], "the same documents have the same idempotency key"
    assert all(call[0] == "crm" for call in calls) and calls[0][1] == "20"


def test_a_query_that_fails_for_a_key_or_has_two_rows_for_it(shop, receiver):
    shop.feed({"url": receiver.url}, query="select id, name, 1 / (id - 5) as n from customers c "
                                           "left join (values (9), (9)) v(x) on v.x = c.id",
              retry={"attempts": 1, "first": "20ms", "longest": "1s"})
    shop.run()
    assert set(receiver.table) == set(range(1, 21)) - {5, 9}
    assert {d["key"][0]: d["answer"] for d in shop.dead()} == {
        "5": shop.dead()[0]["answer"], "9": "the query has several rows for this key"}
    assert "division by zero (SQLSTATE 22012)" in shop.dead()[0]["answer"]


def test_the_pages_example(source, make_pipeline, receiver, tmp_path, monkeypatch):
    """docs/feeds.md, as it stands there."""
    with open(os.path.join(ROOT, "docs", "feeds.md")) as page:
        text = page.read()
    blocks = lambda kind: re.findall(rf"^```{kind}\n(.*?)^```$", text, re.M | re.S)  # noqa: E731
    monkeypatch.setenv("CRM_URL", receiver.url)
    monkeypatch.setenv("CRM_TOKEN", "t")
    monkeypatch.setenv("SIGNUPS", str(tmp_path / "signups"))
    for sql in blocks("sql source"):
        source.sql(sql)
    pipeline = make_pipeline()
    pipeline.mirror.sql(f"create schema outbox authorization {REPLICATOR}")
    pipeline.write_config(to_yaml(pipeline.config()) + "\n" + "".join(blocks("yaml")))
    pipeline.start().wait_until_caught_up()
    wait.until(lambda: len(receiver.table) == 3, "the customers")
    assert receiver.table[1] == {"id": 1, "email": "ada@example.org", "full_name": "Ada", "orders": 2, "revenue": 42.5,
                                 "last_order_at": "2026-03-05T12:00:00+00:00"}
    wait.until(lambda: os.path.exists(tmp_path / "signups"), "the sign-ups")
    outbox = "select document::text from outbox.carts order by id"
    wait.until(lambda: pipeline.mirror.value("select to_regclass('outbox.carts')") and pipeline.mirror.sql(outbox), "the carts")
    source.sql("update customers set confirmed_at = '2026-04-01 00:00Z' where id = 2")
    source.sql("update carts set ordered = true where id = 1")
    source.sql("delete from customers where id = 3")
    wait.until(lambda: set(receiver.table) == {1, 2}, "one is gone")
    wait.until(lambda: len(pipeline.mirror.sql(outbox)) == 2, "the cart is closed")
    assert json.loads(pipeline.mirror.sql(outbox)[1][0]) == {"id": 1, "state": "closed"}
    wait.until(lambda: len((tmp_path / "signups").read_text().splitlines()) == 3, "who has signed up")
    assert sorted(d["id"] for d in lines((tmp_path / "signups").read_text())) == [1, 2, 3]
    assert lines(pipeline.ok("feed", "customers", "--dry-run", "1").out) == [receiver.table[1]]
    for statement in blocks("sql tailwater"):
        pipeline.mirror.sql(statement, user=REPLICATOR)
    pipeline.mirror.sql("select tailwater.revoke_consumer(%s)", READER, user=REPLICATOR)


def test_check_tries_the_query(shop):
    """It names the fields, and what the query would read whole for a few keys; a query that fails is a warning."""
    shop.feed({"stdout": True})
    found = shop.pipeline.ok("check").out
    assert "feed crm sends the fields id, name, total" in found
    shop.feed({"stdout": True}, query="select id, nam from customers")
    found = shop.pipeline.ok("check").out
    assert "feed crm cannot work" in found and 'column "nam" does not exist' in found
    shop.change("insert into customers select i, 'x' from generate_series(1000, 30000) i")
    shop.mirror.sql("analyze mirror_public.customers")
    shop.feed({"stdout": True}, query="select max(id) as id, name from customers group by name")
    assert "feed crm reads all of mirror_public.customers for a few keys" in shop.pipeline.ok("check").out


def test_a_hundred_of_a_hundred_thousand(shop, receiver):
    """A hundred documents that the receiver refuses: the others arrive, these are kept with the reasons, it goes on.

    Of ten thousand; TAILWATER_FEED_ROWS=100000 takes as many as it says (half a minute with a release build).
    """
    rows = int(os.environ.get("TAILWATER_FEED_ROWS", "10000"))
    bad = {1000 + rows // 101 * i for i in range(100)}
    receiver.behave = lambda number, documents: (422, "bad", {}) if any(d["id"] in bad for d in documents) else None
    shop.source.sql("delete from customers where id > 1; insert into customers select i, 'c' from generate_series(1000, %s) i",
                    998 + rows)
    shop.pipeline.wait_until_caught_up()
    shop.feed({"url": receiver.url}, retry={"attempts": 1, "first": "20ms", "longest": "1s"})
    shop.run(timeout=400)
    assert len(receiver.table) == rows - 100 and not bad & set(receiver.table)
    assert {(d["key"][0], d["answer"]) for d in shop.dead()} == {(str(k), "HTTP 422: bad") for k in bad}
    shop.change("update customers set name = 'y' where id = 1")
    shop.run()
    assert receiver.table[1]["name"] == "y"
