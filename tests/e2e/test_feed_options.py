"""What a feed's declaration may say, one test for each thing that a receiver or an operator would notice."""

import base64
import gzip
import hashlib
import hmac
import json
import os
import re
import signal
import subprocess
import threading
import time

import pytest

from lib import wait
from lib.cluster import REPLICATOR, ROOT
from lib.proxy import Proxy
from lib.receiver import Receiver
from lib.shop import lines

AWAY = {"attempts": 3, "first": "20ms", "longest": "50ms"}


def certificate(folder, name, host):
    """A certificate of its own for a host, and its key."""
    files = [os.path.join(folder, f"{name}.{kind}") for kind in ("crt", "key")]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName={host}", "-out", files[0],
                    "-keyout", files[1]], check=True, capture_output=True)
    return files


def is_refused(shop, name, reason):
    """By a run that ends by itself: nobody is there."""
    result = shop.pipeline.verb("feed", "run", name, "--until", "now")
    assert result.code == 75 and "has taken nothing" in result.text and reason in shop.status(name)["reason"], repr(result)
    return True


def test_tls(shop, tmp_path):
    """A certificate is verified, with the name in it; against a file of one's own where that is named."""
    shop.pipeline.keys["source"] = {"start_timeout": "1s"}
    right, wrong = certificate(tmp_path, "right", "IP:127.0.0.1"), certificate(tmp_path, "wrong", "DNS:crm.example")
    for number, (files, more, reason) in enumerate([
            (right, {}, "SSL peer certificate"), (right, {"ca_file": right[0]}, None),
            (wrong, {"ca_file": wrong[0]}, "SSL peer certificate"), (right, {"ca_file": wrong[0]}, "SSL peer certificate"),
            (wrong, {"verify": False}, None), (wrong, {"ca_file": str(tmp_path / "none")}, "CA cert")]):
        receiver, name = Receiver(tls=files), f"crm{number}"
        shop.feed({"url": receiver.url, **more}, name, retry=AWAY)
        if reason:
            assert is_refused(shop, name, reason) and receiver.requests == []
        else:
            shop.run(name)
            assert receiver.table == shop.documents() and receiver.wrong == []
        receiver.stop()


def test_credentials(shop, receiver, tmp_path, monkeypatch):
    """From the environment, from a file that is renewed meanwhile, a user's with a password; and nobody else sees them."""
    shop.pipeline.keys["source"] = {"start_timeout": "1s"}
    monkeypatch.setenv("CRM_TOKEN", "token-1")
    monkeypatch.setenv("CRM_PASSWORD", "pass:word-2")
    file = tmp_path / "token"
    shop.feed({"url": receiver.url, "bearer": "${CRM_TOKEN}"}, "of_environment")
    shop.feed({"url": receiver.url, "bearer_file": str(file)}, "of_file", retry=AWAY)
    shop.feed({"url": receiver.url, "basic": "crm:${CRM_PASSWORD}"}, "of_user")

    def sent():
        return receiver.requests[-1]["headers"]["Authorization"]

    shop.run("of_environment")
    assert sent() == "Bearer token-1" and len(receiver.requests) == 1
    assert is_refused(shop, "of_file", f"bearer_file {file}: No such file") and len(receiver.requests) == 1
    file.write_text("token-3\nand more\n")
    shop.run("of_file")
    assert sent() == "Bearer token-3" and len(receiver.requests) == 2
    process = shop.start("of_file")
    file.write_text("token-4")
    shop.change("update customers set name = 'x' where id = 1")
    wait.until(lambda: len(receiver.requests) == 3, "the change")
    assert sent() == "Bearer token-4"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    shop.run("of_user")
    assert sent() == "Basic " + base64.b64encode(b"crm:pass:word-2").decode()
    said = shop.pipeline.log + str(shop.mirror.sql("select f, t from tailwater.feed f left join tailwater.feed_todo t on true"))
    assert not any(secret in said for secret in ("token-1", "token-3", "token-4", "word-2", "crm:"))


def test_bodies(shop, receiver):
    """An array, one document, lines; an envelope around one; compressed, signed, with another method and type; over one
    connection."""
    url = receiver.url

    def in_order(documents):
        return sorted(documents, key=lambda d: d["id"])

    def run(name, to, **more):
        count = len(receiver.requests)
        shop.feed({"url": url, **to}, name, query="select id, name from customers where id <= 3", **more)
        shop.run(name)
        return receiver.requests[count:]

    three = [{"id": i, "name": f"c{i}"} for i in (1, 2, 3)]
    request, = run("in_array", {})
    assert in_order(json.loads(request["raw"])) == three and request["headers"]["Content-Type"] == "application/json"
    assert request["method"] == "POST" and request["headers"]["Content-Encoding"] is None
    before = receiver.connections
    found = run("one_by_one", {"body": "one", "method": "PUT"})
    assert in_order(json.loads(r["raw"]) for r in found) == three and {r["method"] for r in found} == {"PUT"}
    assert receiver.connections == before + 1
    request, = run("by_line", {"body": "lines", "gzip": True, "method": "PATCH"})
    assert in_order(lines(gzip.decompress(request["raw"]).decode())) == three and request["method"] == "PATCH"
    assert request["headers"]["Content-Type"] == "application/x-ndjson"
    assert request["headers"]["Content-Encoding"] == "gzip" and gzip.decompress(request["raw"])[-1:] == b"\n"
    found = run("in_envelope", {"body": "one", "envelope": '{"inputs": [{document}], "of": {feed}, "v": {version}}',
                                "headers": {"Content-Type": "application/vnd.crm+json", "X-A": "b"},
                                "hmac": {"secret": "s", "header": "X-Hub-Signature-256"}})
    assert in_order(r["parsed"]["inputs"][0] for r in found) == three
    for request in found:
        headers, parsed = request["headers"], request["parsed"]
        assert parsed["of"] == "in_envelope" and str(parsed["v"]) == headers["Tailwater-Version"]
        assert headers.get_all("Content-Type") == ["application/vnd.crm+json"] and headers["X-A"] == "b"
        assert headers["X-Hub-Signature-256"] == "sha256=" + hmac.new(b"s", request["raw"], hashlib.sha256).hexdigest()
    request, = run("in_batch", {"envelope": '{"inputs": {documents}}'})
    assert list(request["parsed"]) == ["inputs"] and in_order(request["parsed"]["inputs"]) == three


def test_retry_after(shop, receiver):
    """The receiver says when; without that it would have been asked again long before."""
    shop.feed({"url": receiver.url}, retry={"attempts": 1, "first": "20ms", "longest": "50ms"})
    shop.run()
    moments = [None, (429, "slow", {"Retry-After": "2"}), (503, "back soon", {}), None]
    receiver.behave = lambda number, documents: moments[number - 1]
    shop.change("update customers set name = 'x' where id < 9")
    shop.run()
    asked = [r["at"] for r in receiver.requests[1:]]
    assert len(asked) == 3 and asked[1] - asked[0] >= 1.9 and asked[2] - asked[1] < 1.9
    assert receiver.table == shop.documents() and shop.status()["refused"] == 0


def test_max_rate(shop, receiver):
    """So many requests in a time and no more, across windows too; a stop in between loses nothing of what was accepted,
    but for the request that it interrupts."""
    shop.feed({"url": receiver.url, "body": "one"}, max_rate="5/s")
    process = shop.start()
    wait.until(lambda: len(receiver.requests) >= 4, "four of twenty")
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    interrupted = len(receiver.requests) - shop.status()["sent"]
    assert interrupted in (0, 1) and len(receiver.requests) < 20
    shop.change("update customers set name = 'x' where id = 20")
    shop.run()
    asked = [r["at"] for r in receiver.requests]
    # The process began anew once; and a request may arrive late, on a busy machine, and the next one in time.
    gaps = sorted(b - a for a, b in zip(asked, asked[1:]))
    assert gaps[1] > 0.15 and len(asked) == 20 + interrupted and receiver.table == shop.documents()


def test_slow_receivers_get_what_is_new(shop, receiver):
    """Documents that have waited for their turn are read anew: no request carries what is older than some seconds."""
    receiver.behave = lambda number, documents: time.sleep(0.7)
    shop.feed({"url": receiver.url, "body": "one"})
    shop.start()
    wait.until(lambda: receiver.requests, "the first")
    shop.source.sql("update customers set name = 'new' where id = 20")
    wait.until(lambda: receiver.table.get(20), "the last", 40)
    assert receiver.table[20]["name"] == "new" and len(receiver.requests) <= 20


def test_linger(shop, receiver):
    """A hot key is sent once in a while, with what it is then; other feeds do not wait for that."""
    shop.feed({"url": receiver.url}, linger="2s")
    shop.feed({"url": receiver.url + "/quick"}, "quick")
    shop.run()
    shop.run("quick")
    count = len(receiver.requests)
    shop.start()
    shop.start("quick")
    for i in range(20):
        shop.change(f"update customers set name = 'n{i}' where id = 1")
    wait.until(lambda: receiver.table == shop.documents() and shop.status()["state"] == shop.status("quick")["state"] ==
               "up to date", "all of it")
    asked = {name: [r["at"] for r in receiver.requests[count:] if r["headers"]["Tailwater-Feed"] == name]
             for name in ("crm", "quick")}
    assert all(b - a > 1.9 for a, b in zip(asked["crm"], asked["crm"][1:]))
    assert len(asked["quick"]) > len(asked["crm"]) and len(asked["crm"]) < 10


def test_max_staleness(shop, receiver):
    """What waits longer than it should is said, once."""
    shop.feed({"url": receiver.url}, max_staleness="1s", retry=AWAY)
    shop.run()
    receiver.behave = lambda number, documents: 503
    shop.start()
    shop.change("update customers set name = 'x' where id = 1")
    wait.until(lambda: "feed_late" in shop.pipeline.log, "it is said")
    receiver.behave = lambda number, documents: None
    shop.wait_until_sent()
    assert shop.pipeline.log.count("feed_late") == 1


def test_start_now_and_a_query_for_what_vanished(shop, receiver):
    """Others have filled the receiver: it gets what changes from here on, and is told of every key that is gone."""
    shop.feed({"url": receiver.url}, start="now", query="select id, name from customers where name <> 'hidden'",
              vanished="select k.id, true as _deleted, 'gone ' || k.id as reason from {keys} k")
    shop.run()
    assert receiver.requests == []
    shop.change("update customers set name = 'x' where id = 1", "delete from customers where id = 2",
                "update customers set name = 'hidden' where id = 3")
    shop.run()
    assert sorted(receiver.documents, key=lambda d: d["id"]) == [
        {"id": 1, "name": "x"}, {"id": 2, "_deleted": True, "reason": "gone 2"}, {"id": 3, "_deleted": True, "reason": "gone 3"}]
    # Once: whatever changes of it while it is gone.
    shop.change("update customers set note = 'again' where id = 3")
    shop.run()
    assert len(receiver.documents) == 3
    for name in ("back", "hidden"):
        shop.change(f"update customers set name = '{name}' where id = 3")
        shop.run()
    assert receiver.documents[3:] == [{"id": 3, "name": "back"}, {"id": 3, "_deleted": True, "reason": "gone 3"}]


def test_vanished_keys_of_which_nobody_is_told(shop, receiver):
    shop.feed({"url": receiver.url}, query="select id, name from customers where name <> 'hidden'", vanished="nothing")
    shop.run()
    count = len(receiver.requests)
    shop.change("update customers set name = 'hidden' where id = 3", "delete from customers where id = 4")
    shop.run()
    assert len(receiver.requests) == count
    shop.change("update customers set name = 'c3' where id = 3")
    shop.run()
    assert receiver.requests[-1]["documents"] == [{"id": 3, "name": "c3"}], "as it was, and yet it has been gone"


@pytest.fixture
def outbox(shop):
    shop.mirror.sql(f"create schema outbox authorization {REPLICATOR}")
    return lambda: shop.mirror.sql("select key, is_vanished, document, idempotency_key from outbox.crm order by id")


def test_a_table(shop, outbox):
    """Each document once, whatever dies; what a row is refused for is its dead letter, what is anybody's fault is not."""
    shop.feed({"table": "outbox.crm"}, retry={"attempts": 1, "first": "20ms", "longest": "1s"})
    for point in ("feed_before_commit", "feed_after_answer"):
        process = shop.start(env={"TAILWATER_FAULT": f"{point}=kill"})
        assert process.wait(30) == -signal.SIGKILL
    shop.run()
    assert [row[0] for row in sorted(outbox(), key=lambda row: int(row[0][0]))] == [[str(i)] for i in range(1, 21)]
    assert {row[2]["id"]: row[2] for row in outbox()} == shop.documents()
    shop.mirror.sql("alter table outbox.crm add check (document ->> 'name' is distinct from 'bad')", user=REPLICATOR)
    shop.change("update customers set name = 'bad' where id = 1", "update customers set name = 'good' where id = 2",
                "delete from customers where id = 3")
    shop.run()
    assert [(row[0], row[1], row[2].get("name")) for row in outbox()[20:]] == [(["2"], False, "good"), (["3"], True, None)]
    dead, = shop.dead()
    assert dead["key"] == ["1"] and dead["answer"].startswith("SQLSTATE 23514") and "check constraint" in dead["answer"]
    shop.mirror.sql("alter table outbox.crm rename to away", user=REPLICATOR)
    process = shop.start()
    shop.change("update customers set name = 'y' where id = 4")
    wait.until(lambda: shop.mirror.value("select to_regclass('outbox.crm') is not null"), "the table is made anew")
    wait.until(lambda: [row[2].get("name") for row in outbox()] == ["y"], "the row")
    assert process.poll() is None and len(shop.dead()) == 1
    assert len({row[3] for row in shop.mirror.sql("select 1, 1, 1, idempotency_key from outbox.away union all "
                                                  "select 1, 1, 1, idempotency_key from outbox.crm")}) == 23


def test_a_document_that_breaks_the_receiver(shop, receiver):
    """A failure of its own for one document: it is found, tried again, and kept; and while all of that goes on the others
    do not wait for it, nor is it forgotten because of them, those of its own window that are sent again and again neither."""
    receiver.behave = lambda number, documents: 500 if any(d["name"] == "poison" for d in documents) else None
    shop.feed({"url": receiver.url}, batch=1, retry={"attempts": 3, "first": "1s", "longest": "1s"})
    shop.run()
    shop.start()
    shop.change("update customers set name = case id when 7 then 'poison' else 'n' end where id <= 7")
    late = 0
    for i in range(1000):
        began = time.monotonic()
        shop.change(f"update customers set name = 'n{i}' where id = {1 + i % 5}")
        wait.until(lambda: receiver.table[1 + i % 5]["name"] == f"n{i}", "the others")
        late += time.monotonic() - began > 0.7
        if shop.status()["dead"]:
            break
    assert [(d["key"], d["attempts"], d["answer"]) for d in shop.dead()] == [(["7"], 3, "HTTP 500: {}")]
    assert late <= 6, "it holds up its own window a few times, and nobody else's"


def statuses_of_the_page():
    """The table of docs/feeds.md that says what an answer means: refused, away, either."""
    with open(os.path.join(ROOT, "docs", "feeds.md"), encoding="utf-8") as page:
        rows = page.read().split("| answer | means |")[1].split("\n\n")[0].splitlines()[2:]
    accepted, away, refused, either = (row.split("|")[1] for row in rows)
    away, either = ([int(status) for status in re.findall(r"\b\d{3}\b", row)] for row in (away, either))
    assert accepted.strip() == "2xx" and "a redirect" in rows[1] and "any other 4xx" in refused and "any other 5xx" in rows[3]
    others = [status for status in (400, 404, 409, 413, 422, 451) if status not in away + either]
    return others, [301, *away], [*either, 500, 501]


def test_what_each_status_means(shop, receiver):
    """The documents are refused; or everything waits; or either: then, once it has been asked attempts times, it is the
    documents' fault."""
    shop.feed({"url": receiver.url}, retry={"attempts": 3, "first": "10ms", "longest": "20ms"})
    shop.run()
    shop.start()
    shop.wait_until_sent()
    refusing, away, either = statuses_of_the_page()
    assert (refusing, len(away), len(either)) == ([400, 404, 409, 413, 422, 451], 9, 3)
    for number, status in enumerate(refusing + away + either):
        before, count, name = shop.status(), len(receiver.requests), f"n{number}"
        receiver.behave = lambda i, documents, count=count, status=status: status if i <= count + 2 else None
        shop.source.sql("update customers set name = %s where id = 1", name)
        wait.until(lambda: receiver.table[1]["name"] == name, lambda: f"{status}: {shop.status()}")
        wait.until(lambda: shop.status()["sent"] > before["sent"], lambda: str(shop.status()))
        refused = shop.status()["refused"] - before["refused"]
        assert (refused, len(receiver.requests) - count) == (2 if status in refusing else 0, 3), status
    receiver.behave = lambda number, documents: 500
    shop.source.sql("update customers set name = 'last' where id = 1")
    wait.until(lambda: shop.status()["dead"] == 1, lambda: str(shop.status()))
    assert shop.dead()[0]["answer"] == "HTTP 500: {}"


def test_who_blocks_is_tried_when_asked(shop, receiver):
    """A receiver says "in an hour"; an operator who knows better does not wait for that.  News of other keys do."""
    wait_an_hour = lambda number, documents: (503, "later", {"Retry-After": "3600"})  # noqa: E731
    shop.feed({"url": receiver.url}, "other")
    shop.feed({"url": receiver.url})
    shop.run("other")
    shop.run()
    shop.start()
    shop.wait_until_sent()
    for number, command in enumerate(("retry", "resume")):
        receiver.behave = wait_an_hour
        shop.change(f"update customers set name = 'blocked {number}' where id = 1")
        wait.until(lambda: shop.status()["state"] == "blocked", lambda: str(shop.status()))
        count = len(receiver.requests)
        shop.change(f"update customers set name = 'blocked {number}' where id = 2")
        shop.pipeline.ok("feed", command, "other")
        shop.pipeline.ok("feed", command, "crm")
        wait.until(lambda: len(receiver.requests) == count + 1, "it is tried at once, and refuses again")
        receiver.behave = lambda number, documents: None
        shop.pipeline.ok("feed", command, "crm")
        wait.until(lambda: {receiver.table[i]["name"] for i in (1, 2)} == {f"blocked {number}"}, lambda: str(shop.status()))
        shop.wait_until_sent()


def test_who_blocks_is_tried_with_the_configuration_again(shop, receiver):
    """A SIGHUP: the receiver was mended, whatever it said of an hour."""
    shop.feed({"url": receiver.url}, run="auto")
    shop.pipeline.stop()
    shop.pipeline.start().wait_until_caught_up()
    shop.wait_until_sent()
    receiver.behave = lambda number, documents: (503, "later", {"Retry-After": "3600"})
    shop.change("update customers set name = 'blocked' where id = 1")
    wait.until(lambda: shop.status()["state"] == "blocked", lambda: str(shop.status()))
    receiver.behave = lambda number, documents: None
    shop.pipeline.signal(signal.SIGHUP)
    wait.until(lambda: receiver.table[1]["name"] == "blocked", lambda: str(shop.status()))
    shop.wait_until_sent()


def test_a_receiver_that_goes_while_it_is_tried(shop, receiver):
    """It has refused eight documents alone; when it is asked for another one, to see whether it is all of them, it is away.
    That one and the others wait for it, and are nobody's fault."""
    def behave(number, documents):
        if number == 8:  # and then it takes no connection
            receiver.server.shutdown()
            receiver.server.server_close()
            receiver.server = None
            return (422, "no", {"Connection": "close"})
        return (422, "no", {})

    receiver.behave = behave
    shop.feed({"url": receiver.url, "body": "one"}, retry={"attempts": 5, "first": "1h", "longest": "1h"})
    shop.start()
    wait.until(lambda: shop.status()["state"] == "blocked", lambda: str(shop.status()))
    found = shop.status()
    assert (found["retrying"], found["dead"], found["refused"], found["sent"]) == (8, 0, 8, 0), str(found)
    assert "connect" in found["reason"]
    receiver.behave = lambda number, documents: None
    receiver.start()
    shop.pipeline.ok("feed", "resume", "crm")
    wait.until(lambda: len(receiver.table) == 12, lambda: str(shop.status()))
    shop.pipeline.ok("feed", "retry", "crm")
    wait.until(lambda: receiver.table == shop.documents(), lambda: str(shop.status()))


def test_a_receiver_that_refuses_everything(shop, receiver):
    """It is left alone after a few documents, nobody is blamed, and it is said why.  Where it is the documents after all each
    has its own answer."""
    shop.source.sql("insert into customers select i, 'c' || i from generate_series(21, 300) i")
    shop.pipeline.wait_until_caught_up()
    receiver.behave = lambda number, documents: (422, "no such list", {})
    shop.feed({"url": receiver.url}, retry={"attempts": 5, "first": "2s", "longest": "2s"})
    shop.start()
    wait.until(lambda: shop.status()["state"] == "blocked", lambda: str(shop.status()))
    found = shop.status()
    assert found["reason"] == "it refuses every document: HTTP 422: no such list" and found["requests"] <= 30
    assert (found["dead"], found["retrying"], found["refused"]) == (0, 0, 0)
    # A few good ones among them: then it is not everything, and all others are refused alone, some rounds later.
    good = {290, 291, 299}
    receiver.behave = lambda number, documents: None if {d["id"] for d in documents} <= good else (422, "no such list", {})

    def is_seen_through():
        if shop.status()["state"] == "blocked":
            shop.pipeline.ok("feed", "resume", "crm")
        return shop.status()["refused"] >= 297

    wait.until(is_seen_through, lambda: str(shop.status()))
    assert set(receiver.table) == good and shop.status()["refused"] < 2 * 297
    count = shop.status()["requests"]
    # What was refused alone is not asked for one by one again.
    wait.until(lambda: shop.status()["refused"] >= 2 * 297, lambda: str(shop.status()))
    assert shop.status()["requests"] - count < 450
    receiver.behave = lambda number, documents: None
    shop.pipeline.ok("feed", "retry", "crm")
    wait.until(lambda: receiver.table == shop.documents(), lambda: str(shop.status()))


def test_a_broken_receiver_makes_no_dead_letters(shop, receiver):
    """Whatever it is asked it fails; no document is taken to be at fault for good."""
    receiver.behave = lambda number, documents: 500
    shop.feed({"url": receiver.url}, retry={"attempts": 2, "first": "10ms", "longest": "20ms"})
    shop.start()
    wait.until(lambda: len(receiver.requests) > 60, "it is tried")
    assert shop.status()["dead"] <= 3 and receiver.table == {}
    receiver.behave = lambda number, documents: None
    wait.until(lambda: len(receiver.table) >= 17, "the others")
    shop.pipeline.ok("feed", "retry", "crm")
    wait.until(lambda: receiver.table == shop.documents(), "all of them")


def test_what_a_stop_interrupts_is_nobodys_fault(shop, receiver, tmp_path):
    script = tmp_path / "to-crm"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/began\nsleep 60\n")
    script.chmod(0o755)
    shop.feed({"command": [str(script)]}, query="select id, name from customers where id = 1",
              retry={"attempts": 1, "first": "20ms", "longest": "1s"})
    process = shop.start()
    wait.until(lambda: (tmp_path / "began").exists(), "it runs")
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    found = shop.status()
    assert (found["dead"], found["retrying"], found["refused"]) == (0, 0, 0)


def test_a_cancel_that_is_lost_is_repeated(shop, folder):
    """As one is that comes before the server has begun the statement: it would go on for nobody."""
    network = Proxy(os.path.join(folder, "net"), shop.mirror.cluster.folder).start()
    shop.pipeline.keys["mirror"] = {"conninfo": shop.mirror.conninfo(host=network.folder)}
    shop.feed({"stdout": True}, query="select id, pg_sleep(600)::text as x from customers where id = 1")
    process = shop.start()

    def count():
        return shop.mirror.value("select count(*) from pg_stat_activity where state = 'active' and query like '%pg_sleep%' "
                                 "and datname = current_database() and pid <> pg_backend_pid()")

    try:
        wait.until(lambda: count() == 1, "the query")
        network.lose_cancels(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        wait.until(lambda: count() == 0, "nobody sleeps")
        assert network.cancels_to_lose == 0
    finally:
        network.close()


def test_a_command_that_does_not_end(shop, tmp_path):
    """It is killed with what it has started, when its time is up."""
    script = tmp_path / "to-crm"
    script.write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {tmp_path}/child\nwait\n")
    script.chmod(0o755)
    shop.feed({"command": [str(script)], "timeout": "500ms"}, query="select id, name from customers where id = 1",
              retry={"attempts": 1, "first": "20ms", "longest": "1s"})
    shop.run()
    dead, = shop.dead()
    assert dead["answer"] == f"{script} did not end in time"
    child = int((tmp_path / "child").read_text())
    wait.until(lambda: not os.path.exists(f"/proc/{child}") or
               " Z " in open(f"/proc/{child}/stat").read(), "its child is gone")  # noqa: SIM115


def test_an_answer_in_any_bytes(shop, receiver):
    """It is a dead letter's reason, and a log's line has none of it: answers speak of rows."""
    receiver.behave = lambda number, documents: (422, b"Stra\xdfe fehlt: \xff\x00 ada@example.org", {})
    shop.feed({"url": receiver.url}, query="select id, name from customers where id = 1",
              retry={"attempts": 1, "first": "20ms", "longest": "1s"}, max_dead=0)
    process = shop.start()
    wait.until(lambda: shop.status()["state"] == "paused", lambda: str(shop.status()))
    answer = "HTTP 422: Stra?e fehlt: ?  ada@example.org"
    assert shop.status()["reason"] == "more than 0 documents were refused for good; the last answer: " + answer
    assert shop.dead()[0]["answer"] == answer
    receiver.behave = lambda number, documents: (503, "ada@example.org has to wait", {})
    shop.pipeline.ok("feed", "retry", "crm")
    shop.pipeline.ok("feed", "resume", "crm")
    wait.until(lambda: shop.status()["state"] == "blocked", lambda: str(shop.status()))
    assert shop.status()["reason"] == "HTTP 503: ada@example.org has to wait"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert "feed_blocked" in shop.pipeline.log
    with open(shop.pipeline.log_file) as log:
        said = [line for line in log if " [feed_" in line]
    assert said and "ada@" not in "".join(said)


def test_a_key_that_a_receiver_knows(shop):
    """Receivers that pass over an Idempotency-Key which they have seen: the same attempt has the same one after a crash;
    a document that was another one in between does not."""
    receiver = Receiver(is_idempotent=True)
    shop.feed({"url": receiver.url}, retry={"attempts": 1000, "first": "20ms", "longest": "50ms"})
    shop.run()
    shop.change("update customers set name = 'v1' where id = 1")
    process = shop.start(env={"TAILWATER_FAULT": "feed_after_answer=kill"})
    assert process.wait(30) == -signal.SIGKILL
    receiver.behave = lambda number, documents: "lose"
    shop.start()
    for name in ("v1", "v2", "v1"):
        count = len(receiver.requests)
        shop.change(f"update customers set name = '{name}' where id = 1")
        wait.until(lambda: receiver.requests[-1]["documents"][0].get("name") == name and len(receiver.requests) > count + 2, name)
    keys = [(r["documents"][0]["name"], r["headers"]["Idempotency-Key"]) for r in receiver.requests[1:]]
    runs = [keys[0]] + [b for a, b in zip(keys, keys[1:]) if a[0] != b[0]]
    assert [name for name, _ in runs] == ["v1", "v2", "v1"] and len({key for _, key in runs}) == 3 == len(set(keys))
    receiver.behave = lambda number, documents: None
    shop.wait_until_sent()
    assert receiver.table == shop.documents() and receiver.wrong == []
    receiver.stop()


def test_versions_tell_documents_of_a_key_apart(shop, receiver):
    """A document's version is that of the snapshot it was read under, whatever else is asked for after it."""
    shop.feed({"url": receiver.url}, vanished="select k.id, true as _deleted from {keys} k",
              query="select id, name, case when name = 'slow' then pg_sleep(2)::text end as x from customers")
    shop.run()
    shop.start()
    shop.wait_until_sent()
    shop.change("update customers set name = 'slow' where id = 6", "delete from customers where id = 5")
    wait.until(lambda: shop.mirror.value("select count(*) from pg_stat_activity where wait_event = 'PgSleep'"), "it reads")
    shop.change("update customers set name = 'newer' where id = 6", "insert into customers values (5, 'back')")
    wait.until(lambda: receiver.table[6]["name"] == "newer" and receiver.table.get(5, {}).get("name") == "back",
               lambda: str(receiver.table))
    for key, names in ((5, ["c5", "gone", "back"]), (6, ["c6", "slow", "newer"])):
        found = [(int(r["headers"]["Tailwater-Version"]), d.get("name", "gone")) for r in receiver.requests
                 for d in r["documents"] if d["id"] == key]
        assert [name for _, name in found] == names and len({version for version, _ in found}) == 3


def test_a_feed_that_lost_its_lock_sends_no_more(shop, receiver):
    """Somebody else may have taken over, and sent what is newer."""
    first, go_on = threading.Event(), threading.Event()

    def behave(number, documents):
        if number == 1:
            first.set()
            go_on.wait(20)

    receiver.behave = behave
    shop.feed({"url": receiver.url, "body": "one"})
    shop.start()
    assert first.wait(20)
    assert shop.mirror.value("select pg_terminate_backend(pid, 10000) from pg_stat_activity where application_name = "
                             "'tailwater feed crm'")
    go_on.set()
    wait.until(lambda: len(receiver.requests) >= 2, "it begins anew")
    assert receiver.requests[1]["documents"] == receiver.requests[0]["documents"]


def test_keys_are_what_the_server_takes_them_for(shop, receiver):
    shop.feed({"url": receiver.url})
    shop.run()
    assert "1 keys" in shop.pipeline.ok("feed", "crm", "--resend", "07", " 7").out
    shop.run()
    assert [d["id"] for d in receiver.requests[-1]["documents"]] == [7]
    assert shop.mirror.value("select count(*) from tailwater.feed_sent") == 20
    for keys in (["seven"], ["9999999999999999999999"]):
        result = shop.pipeline.verb("feed", "crm", "--resend", *keys)
        assert result.code == 1 and keys[0] in result.text, repr(result)
    assert shop.mirror.value("select count(*) from tailwater.feed_todo") == 0


def test_drop_is_for_feeds_that_do_not_run(shop, receiver):
    """Whoever runs it would begin it anew, and send everything."""
    shop.feed({"url": receiver.url})
    process = shop.start()
    shop.wait_until_sent()
    result = shop.pipeline.verb("feed", "drop", "crm")
    assert result.code not in (0, 2) and "is being run" in result.text and "SIGHUP" in result.text
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    assert "forgotten" in shop.pipeline.ok("feed", "drop", "crm").out


def test_a_run_that_ends_by_itself_does_not_wait_for_an_operator(shop, receiver):
    shop.feed({"url": receiver.url})
    shop.run()
    shop.pipeline.ok("feed", "pause", "crm", "moving")
    result = shop.pipeline.verb("feed", "run", "crm", "--until", "now")
    assert result.code == 1 and "feed crm is paused: moving" in result.text and " resume crm" in result.text


def test_the_configuration_again(shop, receiver):
    """SIGHUP: a new feed begins, one that was changed is another one, one that is gone ends."""
    shop.feed({"url": receiver.url}, run="auto")
    shop.feed({"url": receiver.url + "/old"}, "old", run="auto")
    shop.pipeline.stop()
    shop.pipeline.start().wait_until_caught_up()
    shop.wait_until_sent()
    shop.wait_until_sent("old")
    del shop.pipeline.keys["feeds"]["old"]
    shop.feed({"url": receiver.url + "/new"}, "new", query="select id, name from customers where id = 1", run="auto")
    shop.feed({"url": receiver.url}, query="select id, upper(name) as name from customers", run="auto")
    shop.pipeline.signal(signal.SIGHUP)
    wait.until(lambda: shop.status("new")["state"] == "up to date", "the new one runs")
    wait.until(lambda: receiver.table[2]["name"] == "C2", "the changed one has compared all")
    wait.until(lambda: shop.status("old")["state"] == "not running", "the old one has ended")
    assert shop.status("new")["sent"] == 1
    shop.change("update customers set name = 'z' where id = 2")
    wait.until(lambda: receiver.table[2]["name"] == "Z", "it goes on")
    assert "forgotten" in shop.pipeline.ok("feed", "drop", "old").out, "though it is declared no more"


AT_ONCE = {"attempts": 1, "first": "20ms", "longest": "50ms"}


def test_a_slow_receiver_of_many_refused_documents(shop, receiver):
    """A window does not begin again and again with what was refused: it ends, and so do those behind it."""
    shop.feed({"url": receiver.url}, retry=AT_ONCE)
    shop.run()

    def behave(number, documents):
        wrong = [d["id"] for d in documents if d["id"] > 20]
        time.sleep(0.15 if wrong else 0)
        return (422, f"{wrong[0]} is not known", {}) if wrong else None

    receiver.behave = behave
    shop.start()
    shop.change("insert into customers select i, 'c' || i from generate_series(21, 60) i",
                "update customers set name = 'x' where id = 9")
    shop.change("update customers set name = 'y' where id = 8")
    wait.until(lambda: shop.status()["dead"] == 40, lambda: str(shop.status()))
    shop.wait_until_sent()
    assert receiver.table == {k: d for k, d in shop.documents().items() if k <= 20}
    assert {d["answer"] for d in shop.dead()} == {f"HTTP 422: {i} is not known" for i in range(21, 61)}


def test_a_refused_document_and_a_slow_rate(shop, receiver):
    """The second request is late by what the documents may be old; the document at fault is found all the same."""
    shop.feed({"url": receiver.url}, start="now", max_rate="11/min", retry=AT_ONCE)
    shop.run()
    receiver.behave = lambda number, documents: (422, "no", {}) if any(d["id"] == 1 for d in documents) else None
    shop.start()
    shop.change("update customers set name = 'x' where id <= 2")
    wait.until(lambda: set(receiver.table) == {2}, lambda: str(shop.status()))
    assert [d["key"] for d in shop.dead()] == [["1"]] and len(receiver.requests) == 3


def test_a_long_answer_of_a_receiver_that_refuses_everything(shop, receiver):
    """It is cut between two characters, wherever our own words move it."""
    receiver.behave = lambda number, documents: (422, "x" * (number % 3) + "€" * 400, {})
    shop.feed({"url": receiver.url}, retry={"attempts": 100, "first": "10ms", "longest": "10ms"})
    shop.start()
    wait.until(lambda: shop.status()["state"] == "blocked", lambda: str(shop.status()))
    wait.until(lambda: len(receiver.requests) > 60, "some rounds")
    assert re.fullmatch("it refuses every document: HTTP 422: x{0,2}€{100,}", shop.status()["reason"])
    receiver.behave = lambda number, documents: None
    wait.until(lambda: receiver.table == shop.documents(), lambda: str(shop.status()))
    assert shop.dead() == []


@pytest.mark.parametrize("to", [{"body": "one"}, {}])
def test_small_requests_to_a_receiver_that_refuses_everything(shop, receiver, to):
    """Nor are documents blamed that come a few at a time, with answers that name them: but for the first."""
    receiver.behave = lambda number, documents: (422, f"no list for {documents[0]['id']}", {})
    shop.feed({"url": receiver.url, **to}, batch=500 if to else 3, retry={"attempts": 100, "first": "10ms", "longest": "10ms"})
    shop.start()
    wait.until(lambda: shop.status()["state"] == "blocked", lambda: str(shop.status()))
    wait.until(lambda: len(receiver.requests) > 60, "some rounds")
    found = shop.status()
    assert found["reason"].startswith("it refuses every document: HTTP 422: no list for ") and found["retrying"] <= 9
    receiver.behave = lambda number, documents: None
    wait.until(lambda: receiver.table == shop.documents(), lambda: str(shop.status()))
    assert shop.dead() == []


def test_no_document_is_sent_again_to_try_the_receiver(shop, receiver):
    """What was accepted is not asked for a second time, and what was refused has its own answer."""
    bad, taken = {1, *range(10, 18)}, []  # a window's keys come in the order of their text

    def behave(number, documents):
        ids = [d["id"] for d in documents]
        if bad & set(ids):
            return 422, "no such list", {}
        taken.extend(ids)
        return None

    receiver.behave = behave
    shop.feed({"url": receiver.url}, start="now", retry={**AT_ONCE, "attempts": 3})
    shop.run()
    shop.change("update customers set name = 'x'")
    shop.run()
    assert sorted(taken) == sorted(set(range(1, 21)) - bad)
    wait.until(lambda: shop.run() and shop.status()["dead"] == 9, lambda: str(shop.status()))
    assert {d["key"][0] for d in shop.dead()} == {str(k) for k in bad}


def test_nobody_becomes_a_dead_letter_unasked(shop, receiver):
    """Eight that are still refused do not speak for those that the receiver takes by now."""
    shop.source.sql("insert into customers select i, 'c' || i from generate_series(21, 60) i")
    shop.pipeline.wait_until_caught_up()
    bad = set(range(1, 61))
    receiver.behave = lambda number, documents: (422, "no such list", {}) if any(d["id"] in bad for d in documents) else None
    shop.feed({"url": receiver.url}, retry={"attempts": 2, "first": "2s", "longest": "2s"})
    process = shop.start()
    wait.until(lambda: shop.status()["state"] == "blocked", lambda: str(shop.status()))
    shop.pipeline.ok("feed", "resume", "crm")  # which is the second attempt
    wait.until(lambda: shop.status()["retrying"] == 60, lambda: str(shop.status()))
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    wait.until(lambda: shop.mirror.value("select count(*) = 60 from tailwater.feed_todo where next_at < clock_timestamp()"), "due")
    bad.remove(9)
    shop.start()
    wait.until(lambda: shop.status()["dead"] + len(receiver.table) == 60, lambda: str(shop.status()))
    assert set(receiver.table) == {9}


def test_who_wakes_a_feed_again_and_again(shop, receiver):
    """It is tried once a second at most: a receiver that asked for an hour is not besieged by whoever may notify."""
    receiver.behave = lambda number, documents: (503, "later", {"Retry-After": "3600"})
    shop.feed({"url": receiver.url})
    shop.start()
    wait.until(lambda: shop.status()["state"] == "blocked", lambda: str(shop.status()))
    count, began = len(receiver.requests), time.monotonic()
    while time.monotonic() - began < 2.5:
        shop.mirror.sql("select pg_notify('tailwater_customer', 'feed/crm')")
    assert 1 <= len(receiver.requests) - count <= 4
