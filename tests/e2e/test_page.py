"""The status page in a real browser: it shows what there is, says nothing to the console, fits a phone."""

import contextlib
import html
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest

from e2e.test_http import Site, free_port
from lib import wait

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")

# What the browser is asked about the page once it has been filled; the answer goes into the document.
LOOK = """<script>
function light(c) {
  const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b;
}
function back(e) {
  for (; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor;
    if (!/, 0\\)$|transparent/.test(c)) return c;
  }
  return "rgb(255, 255, 255)";
}
function underneath(e) {  /* text of a drawing stands on its box */
  const box = e.parentElement.querySelector("rect");
  return box ? getComputedStyle(box).fill : back(e);
}
let shift = 0, isFilled = false;
new PerformanceObserver(list => list.getEntries().forEach(e => shift += isFilled ? e.value : 0)).observe({type: "layout-shift"});
setTimeout(() => { isFilled = true; }, 2000);
setTimeout(() => {
  const poor = [];
  for (const e of document.querySelectorAll("body *")) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) || !e.getClientRects().length) continue;
    if (e.tagName === "title") continue;
    const isDrawn = e instanceof SVGElement, style = getComputedStyle(e);
    const [a, b] = [light(isDrawn ? style.fill : style.color), light(isDrawn ? underneath(e) : back(e))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) poor.push(e.tagName + ":" + e.textContent.slice(0, 20));
  }
  const cut = [...document.querySelectorAll(".scroll")].filter(e => e.scrollWidth > e.clientWidth + 1 && !e.classList.contains("lineage")).map(e => e.id);
  const unnamed = [...document.querySelectorAll("svg, input, section")].filter(e => e.getClientRects().length &&
    !e.getAttribute("aria-label") && !e.querySelector("h2, label, p") && !e.closest("label")).map(e => e.outerHTML.slice(0, 60));
  top.document.documentElement.dataset.seen = JSON.stringify({width: document.documentElement.scrollWidth, inner: innerWidth,
    poor, unnamed, cut, shift, lang: document.documentElement.lang, title: document.title});
}, 4500);
</script>"""


def eight_hours():
    """What /history has after a night: a sample each 15 s, two hours without the source, a peak."""
    now = time.time()
    samples = [[now - 8 * 3600 + i * 15, 0.002 + 40 * max(0, 1 - abs(i - 1500) / 100), 5e6 + 3e5 * (i % 200), i * 100]
               for i in range(1920)]
    for sample in samples[400:880]:
        sample[1] = sample[2] = None
    return json.dumps({"interval_seconds": 15, "samples": samples}).encode()


class Through(http.server.BaseHTTPRequestHandler):
    """The site with LOOK in its page; /phone is the page in a frame of 375 (no window is that narrow).

    server.history: what /history answers instead of the few samples that a test's pipeline has.
    """

    def do_GET(self):
        if self.path == "/phone":
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b'<!doctype html><iframe src="/" width=375 height=5200 style="border: 0"></iframe>')
            return
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.server.site.port}{self.path}", timeout=20) as answer:
                code, kind, body = answer.status, answer.headers["Content-Type"], answer.read()
        except urllib.error.HTTPError as answer:
            code, kind, body = answer.code, answer.headers["Content-Type"], answer.read()
        if self.path == "/history" and self.server.history:
            body = self.server.history
        if self.path == "/":
            body = body.replace(b"</body>", LOOK.encode() + b"</body>")
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def browse(folder, url, width=1200, is_dark=False, budget=9000, shot=None, height=1600):
    """The document after some seconds, and what was said to the console."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync",
               f"--user-data-dir={folder}/chromium-{width}-{is_dark}-{bool(shot)}", f"--window-size={width},{height}",
               "--enable-logging=stderr", f"--virtual-time-budget={budget}", "--hide-scrollbars"]
    command += ["--blink-settings=preferredColorScheme=0"] if is_dark else []
    command += [f"--screenshot={shot}"] if shot else ["--dump-dom"]
    done = subprocess.run([*command, url], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


@pytest.fixture
def site(source, make_pipeline):
    source.sql("create table orders (id int primary key, customer_id int, total numeric);"
               "create table \"<b>odd</b>\" (id int primary key);"
               "insert into orders select i, i % 10, i from generate_series(1, 1000) i")
    site = Site(free_port())
    site.pipeline = make_pipeline(
        http={"listen": f"127.0.0.1:{site.port}"},
        facts={f"fact_{source.name}": {"table": "public.orders", "key": ["id"]}}).publish()
    site.pipeline.start().wait_until_caught_up()
    # What the page shows may be a second old, and a browser's virtual seconds are shorter than ours.
    wait.until(lambda: json.loads(site.get("/status")[1])["state"] == "streaming", lambda: site.get("/status"))
    return site


def seen(document):
    match = re.search(r'data-seen="([^"]*)"', document)
    assert match, document[-3000:]
    return json.loads(html.unescape(match[1]))


def test_the_page(site, source, mirror, folder):
    """Well, then with a table in quarantine: names in full, remedies in words, nothing taken for markup."""
    address = f"http://127.0.0.1:{site.port}/"
    document, console = browse(folder, address)
    assert console == []
    for text in ("streaming", "public.orders", "public.&lt;b&gt;odd&lt;/b&gt;", f"fact_{source.name}", "copy_done",
                 "Retained WAL", f"What leads where: public.orders to fact_{source.name}"):
        assert text in document, text
    assert "<b>odd" not in document
    mirror.sql("alter table mirror_public.orders add check (total < 100000)")
    source.sql("insert into orders values (2000, 1, 1000000)")
    wait.until(lambda: "quarantine" in site.get("/readyz")[1], lambda: site.get("/readyz"))
    document, console = browse(folder, address)
    assert console == [] and "quarantined" in document and "tailwater resync" in document
    site.pipeline.stop()
    keep = os.environ.get("TAILWATER_SCREENSHOTS")
    if keep:
        site.pipeline.start()
        wait.until(lambda: "[streaming]" in site.pipeline.this_run(), site.pipeline.log_tail)
        for width in (1200, 375):
            for is_dark in (False, True):
                browse(folder, address, width, is_dark, shot=f"{keep}/page-{width}{'-dark' if is_dark else ''}.png")
        site.pipeline.stop()
    mirror.sql("alter table mirror_public.orders drop constraint orders_total_check")
    site.pipeline.settle_stopped(compare=False)


@contextlib.contextmanager
def through(site, history=None):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Through)
    server.site, server.history = site, history
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def is_well_made(folder, address, width, is_dark, title):
    """Nothing for the console, nothing to scroll sideways, text with contrast, names for all, nothing that moves."""
    document, console = browse(folder, address + ("phone" if width == 375 else ""), 1200, is_dark)
    assert console == []
    found = seen(document)
    assert found["width"] <= width and found["inner"] == width and not found["cut"], found
    assert not found["poor"] and not found["unnamed"], found
    assert found["shift"] < 0.1, found
    assert found["lang"] == "en" and title in found["title"], found
    return document


@pytest.mark.parametrize("width, is_dark", [(375, False), (375, True), (1200, True)])
def test_a_phone_and_the_night(site, folder, width, is_dark):
    """Nothing to scroll sideways, every text with a contrast of 4.5 at least, everything with a name."""
    with through(site) as address:
        is_well_made(folder, address, width, is_dark, "streaming")
    site.pipeline.settle()


SCHEMA = """
    create table customers (id int primary key, name text, country_id int);
    create table countries (id int primary key, name text);
    create table orders (id int primary key, customer_id int, total int);
    create table archive (id int primary key, filler text);
    create table a_table_whose_name_is_as_long_as_postgresql_lets_names_be_12345 (id int primary key);
    insert into countries select i, 'country ' || i from generate_series(1, 20) i;
    insert into customers select i, 'c' || i, 1 + i % 20 from generate_series(1, 500) i;
    insert into orders select i, 1 + i % 500, i from generate_series(1, 2000) i;
    insert into archive select i, repeat('x', 500) from generate_series(1, 8000) i;
    """


@pytest.fixture
def busy(source, mirror, receiver, make_pipeline):
    """A pipeline that has something of all that the page shows: a resync that runs, dead letters, a table in quarantine."""
    name = f"f{mirror.name}"
    mirror.sql("create schema report authorization tailwater")
    source.sql(SCHEMA)
    site = Site(free_port())
    site.pipeline = make_pipeline(
        http={"listen": f"127.0.0.1:{site.port}"}, auto_publish=True,
        facts={f"{name}_orders": {
            "table": "public.orders", "key": ["id"], "dimensions": [
                {"table": "public.customers", "join": "customers.id = orders.customer_id"},
                {"table": "public.countries", "join": "countries.id = customers.country_id"}],
            "refresh": {"into": "report.order_totals", "query": "select o.id, o.total, c.name from orders o "
                        "join customers c on c.id = o.customer_id"}},
            f"{name}_totals": {"table": "report.order_totals", "key": ["id"]}},
        feeds={f"crm_{mirror.name}": {
            "fact": f"{name}_orders", "query": "select o.id, o.total from {keys} k join orders o on o.id = k.id",
            "destination": {"url": receiver.url}, "start": "now", "retry": {"attempts": 1, "first": "20ms", "longest": "1s"}}})
    pipeline = site.pipeline
    pipeline.start().wait_until_caught_up()
    mirror.sql("create view report.by_country as select c.name, count(*) from public.customers c group by 1")
    mirror.sql(f"select tailwater.subscribe('nightly', '{name}_orders', start => 'now')")

    def shown(what):
        status = json.loads(site.get("/status")[1])
        return what(status)
    wait.until(lambda: shown(lambda s: s["ledger"] and all(f["refresh"]["state"] == "ok" for f in s["ledger"]["facts"] if f["refresh"])),
               pipeline.log_tail, 60)
    receiver.behave = lambda number, documents: (400, "no such field", {})
    source.sql("update orders set total = 0 where id < 4")
    wait.until(lambda: shown(lambda s: s["feeds"] and s["feeds"][0]["dead"] == 3), lambda: site.get("/status"), 60)
    mirror.sql("alter table mirror_public.customers add check (name <> 'refused')")
    source.sql("update customers set name = 'refused' where id = 7")
    wait.until(lambda: shown(lambda s: s["state"] == "quarantine"), lambda: site.get("/status"))
    # So slowly that it goes on while somebody looks.
    pipeline.keys["source"] = {"max_read_rate": "100kB/s"}
    pipeline.write_config()
    pipeline.signal(signal.SIGHUP)
    with subprocess.Popen([pipeline.binary, "-c", pipeline.file, "resync", "public.archive"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=pipeline.environment()) as resync:
        wait.until(lambda: shown(lambda s: any(j["state"] == "running" for j in s["jobs"])),
                   lambda: site.get("/status"), 60)
        yield site
        pipeline.stop()
        resync.kill()


def test_all_that_there_is(busy, mirror, folder):
    """Everything the page can show at once, on a phone and in the night: readable, and nothing moves once it is there."""
    with through(busy, eight_hours()) as address:
        for width, is_dark in ((375, False), (1200, True)):
            document = is_well_made(folder, address, width, is_dark, "quarantine")
        keep = os.environ.get("TAILWATER_SCREENSHOTS")
        for width, is_dark in ((1200, False), (1200, True), (375, False), (375, True)) if keep else ():
            browse(folder, address + ("phone" if width == 375 else ""), 1200 if width > 400 else 400, is_dark, height=5200,
                   shot=f"{keep}/busy-{width}{'-dark' if is_dark else ''}.png")
    for part in ("troubles", "jobs", "facts", "refreshes", "feeds", "lineage"):
        assert f'id="{part}-part">' in document, f"{part} is shown"
    for text in ("feed refused", "quarantined", "resync 1", "public.archive", "dead letters", "report.order_totals", "nightly",
                 "What leads where: ", "report.by_country", "<path d=", "at most 40.0 s in the last 8.0 h"):
        assert text in document, text
