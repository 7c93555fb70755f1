"""A network to break: everything that goes to one server's socket passes through here.

A Proxy listens on the unix socket that libpq looks for in its folder and puts each connection
through to a server's.  Connections are told apart by their application_name, which the program sets
("tailwater receiver", "tailwater applier", …), so a test can break one of them:

    cut       both ends are closed
    stall     nothing is forwarded, nothing is read, until resume()
    drop      what is sent is read and thrown away; neither end is told
    abandon   our end is closed at once, the server's end stays open for a while: a lost session
    slow      a delay for every piece, or so many bytes a second, or both
    refuse    new connections are closed before they are put through
    lose_cancels  so many of the next cancel requests do not arrive
"""

import asyncio
import contextlib
import os
import struct
import threading

PIECE = 65536
SOCKET = ".s.PGSQL.5432"
OTHER_REQUESTS = {80877102: "cancel", 80877103: "ssl", 80877104: "gss"}


class Link:
    """One connection that is put through."""

    def __init__(self, name):
        self.name = name
        self.writers = []
        self.is_dropping = False
        self.may_flow = asyncio.Event()
        self.may_flow.set()
        self.delay_s = 0
        self.bytes_per_s = 0

    def cut(self):
        self.may_flow.set()
        for writer in self.writers:
            writer.transport.abort()


class Proxy:
    """folder: where to listen; server_folder: where the server does."""

    def __init__(self, folder, server_folder):
        self.folder = folder
        self.server = os.path.join(server_folder, SOCKET)
        self.links = set()
        self.is_refusing = False
        self.cancels_to_lose = 0
        self.accepted = 0
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def start(self):
        os.makedirs(self.folder, exist_ok=True)
        self.thread.start()
        self._call(self._listen())
        return self

    def close(self):
        if self.thread.is_alive():
            self._call(self._shut())
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join(10)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.folder, SOCKET))

    # ---- what tests do to it ----

    def names(self):
        """The application names of the connections that are open."""
        return self._do(lambda: sorted(link.name for link in self.links))

    def cut(self, name=None):
        return self._each(name, Link.cut)

    def stall(self, name=None):
        return self._each(name, lambda link: link.may_flow.clear())

    def drop(self, name=None):
        def start_dropping(link):
            link.is_dropping = True
        return self._each(name, start_dropping)

    def slow(self, name=None, delay_s=0, bytes_per_s=0):
        def slow_down(link):
            link.delay_s, link.bytes_per_s = delay_s, bytes_per_s
        return self._each(name, slow_down)

    def resume(self, name=None):
        """Stalled and slowed connections go on; dropping ones have lost something and are cut."""
        def go_on(link):
            link.delay_s = link.bytes_per_s = 0
            link.may_flow.set()
            if link.is_dropping:
                link.cut()
        return self._each(name, go_on)

    def abandon(self, name=None, for_s=3.0):
        def leave(link):
            link.may_flow.clear()
            link.writers[0].transport.abort()
            self.loop.call_later(for_s, link.cut)
        return self._each(name, leave)

    def refuse(self, is_on):
        def set_refusing():
            self.is_refusing = is_on
        self._do(set_refusing)

    def lose_cancels(self, count):
        def lose():
            self.cancels_to_lose = count
        self._do(lose)

    # ---- the loop's thread ----

    def _run(self):
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    def _do(self, function):
        async def run():
            return function()
        return self._call(run())

    def _each(self, name, act):
        """Act on the open connections with that in their name, or on all; returns how many these were."""
        def run():
            chosen = [link for link in self.links if name is None or name in link.name]
            for link in chosen:
                act(link)
            return len(chosen)
        return self._do(run)

    async def _listen(self):
        path = os.path.join(self.folder, SOCKET)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self.listener = await asyncio.start_unix_server(self._accept, path)
        os.chmod(path, 0o777)

    async def _shut(self):
        self.listener.close()
        for link in list(self.links):
            link.cut()
        for _ in range(100):
            if not self.links:
                break
            await asyncio.sleep(0.02)

    async def _accept(self, reader, writer):
        link = None
        try:
            if self.is_refusing:
                return
            first, name = await self._read_startup(reader)
            if name == "cancel" and self.cancels_to_lose > 0:
                self.cancels_to_lose -= 1
                return
            server_reader, server_writer = await asyncio.open_unix_connection(self.server)
            link = Link(name)
            link.writers = [writer, server_writer]
            self.links.add(link)
            self.accepted += 1
            server_writer.write(first)
            await asyncio.gather(self._pump(link, reader, server_writer),
                                 self._pump(link, server_reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.links.discard(link)
            for end in [writer, *(link.writers if link else ())]:
                end.close()

    async def _read_startup(self, reader):
        head = await reader.readexactly(8)
        length, code = struct.unpack("!II", head)
        body = await reader.readexactly(length - 8)
        if code in OTHER_REQUESTS:
            return head + body, OTHER_REQUESTS[code]
        words = body.split(b"\0")
        values = dict(zip(words[::2], words[1::2]))
        return head + body, values.get(b"application_name", b"").decode(errors="replace")

    async def _pump(self, link, reader, writer):
        try:
            while True:
                data = await reader.read(PIECE)
                await link.may_flow.wait()
                if not data:
                    break
                if link.is_dropping:
                    continue
                if link.delay_s:
                    await asyncio.sleep(link.delay_s)
                if link.bytes_per_s:
                    await asyncio.sleep(len(data) / link.bytes_per_s)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            # One end is gone: so is the other, after what was on its way; but for an abandoned one.
            await link.may_flow.wait()
            for end in link.writers:
                end.close()
