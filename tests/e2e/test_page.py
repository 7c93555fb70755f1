"""The status page in a real browser: it shows what there is, says nothing to the console, fits a phone."""

import html
import http.server
import json
import os
import re
import shutil
import subprocess
import threading
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
setTimeout(() => {
  const poor = [];
  for (const e of document.querySelectorAll("body *")) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) || !e.getClientRects().length) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(back(e))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) poor.push(e.tagName + ":" + e.textContent.slice(0, 20));
  }
  const unnamed = [...document.querySelectorAll("svg, input, section")].filter(e => e.getClientRects().length &&
    !e.getAttribute("aria-label") && !e.querySelector("h2, label, p") && !e.closest("label")).map(e => e.outerHTML.slice(0, 60));
  top.document.documentElement.dataset.seen = JSON.stringify({width: document.documentElement.scrollWidth, inner: innerWidth,
    poor, unnamed, lang: document.documentElement.lang, title: document.title});
}, 4000);
</script>"""


class Through(http.server.BaseHTTPRequestHandler):
    """The site with LOOK in its page; /phone is the page in a frame of 375 (no window is that narrow)."""

    def do_GET(self):
        if self.path == "/phone":
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b'<!doctype html><iframe src="/" width=375 height=1500 style="border: 0"></iframe>')
            return
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.server.site.port}{self.path}", timeout=20) as answer:
                code, kind, body = answer.status, answer.headers["Content-Type"], answer.read()
        except urllib.error.HTTPError as answer:
            code, kind, body = answer.code, answer.headers["Content-Type"], answer.read()
        if self.path == "/":
            body = body.replace(b"</body>", LOOK.encode() + b"</body>")
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def browse(folder, url, width=1200, is_dark=False, budget=9000, shot=None):
    """The document after some seconds, and what was said to the console."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync",
               f"--user-data-dir={folder}/chromium-{width}-{is_dark}-{bool(shot)}", f"--window-size={width},1600",
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


@pytest.mark.parametrize("width, is_dark", [(375, False), (375, True), (1200, True)])
def test_a_phone_and_the_night(site, folder, width, is_dark):
    """Nothing to scroll sideways, every text with a contrast of 4.5 at least, everything with a name."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Through)
    server.site = site
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        place = "/phone" if width == 375 else "/"
        document, console = browse(folder, f"http://127.0.0.1:{server.server_port}{place}", 1200, is_dark)
        found = seen(document)
        assert console == []
        assert found["width"] <= width and found["inner"] == width, found
        assert not found["poor"] and not found["unnamed"], found
        assert found["lang"] == "en" and "streaming" in found["title"], found
    finally:
        server.shutdown()
        server.server_close()
    site.pipeline.settle()
