"""A receiver of feeds: a small HTTP server with a table, which misbehaves as it is told to."""

import collections
import contextlib
import gzip
import http.server
import json
import random
import select
import socket
import ssl
import threading
import time


class Receiver:
    """Keeps the newest document per key (by the document's field `id`), and what it was asked.

    behave is called with the request's number and its documents, and returns what to do:
      None          takes them, 200
      a number      that status, and takes nothing; or (status, text or bytes, {header: value})
      "cut"         reads the request and closes the connection
      "lose"        takes them and closes the connection
      "half"        takes them and closes the connection in the middle of the answer
      "stall"       takes nothing and says nothing until the sender has gone
      "late"        takes them, and says so too late

    Of every key a document that is older than one that was here before is noted in wrong: by its version, and by
    its field `n` where it has one. is_idempotent: what has an Idempotency-Key that was taken before is passed over.
    tls: a certificate and its key, files.
    """

    def __init__(self, port=0, tls=None, is_idempotent=False):
        self.table, self.requests, self.wrong = {}, [], []
        self.newest, self.counts = collections.defaultdict(int), {}
        self.taken, self.is_idempotent = set(), is_idempotent
        self.connections, self.open = 0, set()
        self.behave = lambda number, documents: None
        self.lock = threading.Lock()
        self.stall = 2.0
        self.port, self.tls = port, tls
        self.server = None
        self.start()

    url = property(lambda self: f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}/documents")
    documents = property(lambda self: [d for r in self.requests for d in r["documents"]])

    def start(self):
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self):
                receiver.connections += 1
                receiver.open.add(self.request)
                super().setup()

            def finish(self):
                receiver.open.discard(self.request)
                super().finish()

            def do_POST(self):
                receiver.answer(self)

            do_PUT = do_PATCH = do_POST

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
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self.tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True,
                                                     do_handshake_on_connect=False)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self):
        """As if killed: connections are refused from here on, and those that are open are cut."""
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None
            for connection in list(self.open):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def look(self, path, documents, version):
        """Nothing comes behind what is newer, taken or not; feeds with paths of their own don't know of each other."""
        for document in documents:
            key, count = (path, document["id"]), document.get("n")
            if version < self.newest[key]:
                self.wrong.append(f"key {key}: version {version} after {self.newest[key]}")
            self.newest[key] = max(version, self.newest[key])
            if count is not None:
                if count < self.counts.get(key, count):
                    self.wrong.append(f"key {key}: {count} after {self.counts[key]}")
                self.counts[key] = count

    def take(self, documents, key):
        if self.is_idempotent and key in self.taken:
            return
        self.taken.add(key)
        for document in documents:
            if document.get("_deleted"):
                self.table.pop(document["id"], None)
            else:
                self.table[document["id"]] = document

    @staticmethod
    def has_gone(request):
        """The sender has given this request up."""
        readable, _, _ = select.select([request.connection], [], [], 0)
        return bool(readable) and not isinstance(request.connection, ssl.SSLSocket) and \
            request.connection.recv(1, socket.MSG_PEEK) == b""

    def answer(self, request):
        body = raw = request.rfile.read(int(request.headers["Content-Length"]))
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        parsed = json.loads(body) if "ndjson" not in request.headers["Content-Type"] else \
            [json.loads(line) for line in body.splitlines()]
        documents = parsed if isinstance(parsed, list) else \
            parsed["inputs"] if "inputs" in parsed else \
            [r["document"] for r in parsed["records"]] if "records" in parsed else [parsed]
        with self.lock:
            if self.has_gone(request):
                request.close_connection = True
                return
            self.look(request.path, documents, int(request.headers["Tailwater-Version"]))
            self.requests.append({"method": request.command, "headers": request.headers, "body": body, "raw": raw,
                                  "parsed": parsed, "documents": documents, "at": time.monotonic()})
            what = self.behave(len(self.requests), documents)
            if what in (None, "lose", "late", "half"):
                self.take(documents, request.headers["Idempotency-Key"])
        if what in ("cut", "lose"):
            request.connection.shutdown(socket.SHUT_RDWR)
            request.close_connection = True
            return
        if what in ("stall", "late"):
            time.sleep(self.stall)
            request.close_connection = True
            return
        status, text, headers = what if isinstance(what, tuple) else (what if isinstance(what, int) else 200, "{}", {})
        text = text if isinstance(text, bytes) else text.encode()
        request.send_response(status)
        request.send_header("Content-Length", str(len(text) + (100 if what == "half" else 0)))
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(text)
        if what == "half":
            request.wfile.flush()
            request.connection.shutdown(socket.SHUT_RDWR)
            request.close_connection = True


def moody(seed, share=0.5):
    """Misbehaves in every way at random."""
    dice = random.Random(seed)
    moods = [500, 503, (429, "slow down", {"Retry-After": "1"}), "cut", "lose", "half", "stall", "late"]
    return lambda number, documents: dice.choice(moods) if dice.random() < share else None
