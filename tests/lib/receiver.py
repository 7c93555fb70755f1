"""A receiver of feeds: a small HTTP server with a table, which misbehaves as it is told to."""

import gzip
import http.server
import json
import random
import socket
import threading
import time


class Receiver:
    """Keeps the newest document per key (by the document's field `id`), and what it was asked.

    behave is called with the request's number and its documents, and returns what to do:
      None          takes them, 200
      a number      that status, and takes nothing; or (status, text, {header: value})
      "cut"         reads the request and closes the connection
      "lose"        takes them and closes the connection
      "stall"       takes nothing and says nothing until the sender has gone
      "late"        takes them, and says so too late
    """

    def __init__(self, port=0):
        self.table, self.requests, self.order = {}, [], {}
        self.behave = lambda number, documents: None
        self.lock = threading.Lock()
        self.stall = 2.0
        self.port = port
        self.server = None
        self.start()

    url = property(lambda self: f"http://127.0.0.1:{self.port}/documents")

    def start(self):
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self):
                receiver.answer(self)

            do_PUT = do_POST

            def log_message(self, *args):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            allow_reuse_address = True

            def handle_error(self, *args):
                pass

        self.server = Server(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self):
        """As if killed: connections are refused from here on, and those that are open are cut."""
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def take(self, documents, version):
        for document in documents:
            key = document["id"]
            assert version >= self.order.get(key, 0), f"key {key}: version {version} after {self.order[key]}"
            self.order[key] = version
            if document.get("_deleted"):
                self.table.pop(key, None)
            else:
                self.table[key] = document

    def answer(self, request):
        body = request.rfile.read(int(request.headers["Content-Length"]))
        raw = body
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        parsed = json.loads(body) if "ndjson" not in request.headers["Content-Type"] else \
            [json.loads(line) for line in body.splitlines()]
        documents = parsed if isinstance(parsed, list) else parsed.get("inputs") or \
            [r["document"] for r in parsed["records"]] if "inputs" in parsed or "records" in parsed else [parsed]
        with self.lock:
            self.requests.append({"headers": dict(request.headers), "body": body, "raw": raw, "parsed": parsed,
                                  "documents": documents, "at": time.time()})
            what = self.behave(len(self.requests), documents)
            if what in (None, "lose", "late"):
                self.take(documents, int(request.headers["Tailwater-Version"]))
        if what in ("cut", "lose"):
            request.connection.shutdown(socket.SHUT_RDWR)
            request.close_connection = True
            return
        if what in ("stall", "late"):
            time.sleep(self.stall)
            request.close_connection = True
            return
        status, text, headers = what if isinstance(what, tuple) else (what or 200, "{}", {})
        request.send_response(status)
        request.send_header("Content-Length", str(len(text)))
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(text.encode())


def moody(seed, share=0.5):
    """Misbehaves in every way at random."""
    dice = random.Random(seed)
    moods = [500, 503, (429, "slow down", {"Retry-After": "0"}), "cut", "lose", "stall", "late"]
    return lambda number, documents: dice.choice(moods) if dice.random() < share else None
