"""status --watch on a terminal of 80 columns: nothing is wider, but for commands that are to be copied whole."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

from lib import wait

CLEAR = "\x1b[H\x1b[2J"


def screens(pipeline, count):
    """What it draws, screen by screen; then Ctrl-C."""
    mine, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 80, 0, 0))
    process = subprocess.Popen([pipeline.binary, "-c", pipeline.file, "status", "--watch"], stdin=its, stdout=its, stderr=its,
                               env=pipeline.environment(), start_new_session=True)
    os.close(its)
    text, end = "", time.monotonic() + 60
    try:
        while text.count(CLEAR) <= count and time.monotonic() < end:
            if select.select([mine], [], [], 0.2)[0]:
                text += os.read(mine, 65536).decode()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        os.close(mine)
    return text.replace("\r\n", "\n").split(CLEAR)[1:count + 1]


def test_80_columns(source, mirror, make_pipeline):
    long = "a_table_with_quite_a_long_name_of_its_own"
    source.sql(f"create table {long} (id int primary key, a text); create table t (id int primary key, a text);"
               "insert into t select i, 'x' from generate_series(1, 100) i")
    fact = f"a_fact_with_a_long_name_{source.name}"
    pipeline = make_pipeline(facts={fact: {"table": "public.t", "key": ["id"]}}).publish()
    pipeline.start().wait_until_caught_up()
    mirror.sql("select tailwater.subscribe('a_consumer_with_a_long_name', %s)", fact)
    mirror.sql("update tailwater.consumer set stale_since = now(), stale_reason = 'it waits for longer than all the others do'")
    mirror.sql(f"alter table mirror_public.{long} add constraint short check (length(a) < 10)")
    source.sql(f"insert into {long} values (1, 'much longer than that')")
    wait.until(lambda: "quarantined" in pipeline.events(), pipeline.log_tail)
    first, second = screens(pipeline, 2)
    for screen in (first, second):
        assert screen.startswith("ERROR") and "to look at" in screen and "a_consumer_with_a_long_name" in screen, screen
        for line in screen.splitlines():
            whole = re.match(r"next +tailwater ", line) or not re.search(r"\S\s", line.strip())
            assert len(line) <= 80 or whole, line
    mirror.sql(f"alter table mirror_public.{long} drop constraint short")
    pipeline.ok("resync", f"public.{long}")
    pipeline.settle()
