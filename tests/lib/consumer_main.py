"""A consumer as a process of its own, which kills itself where it is told to.

    consumer_main.py CONNINFO together|apart END STEP

together: claim, keys, work and ack in one transaction, which is exactly once; apart: each in its own, which is at least
once.  END is ack or release.  STEP is where it dies; '' for never, then it goes on until there is nothing to do.
"""

import os
import signal
import sys

import psycopg2

STEPS = ("connected", "claimed", "read", "worked", "ending", "ended")


def main(conninfo, how, end, step):
    connection = psycopg2.connect(conninfo)
    cursor = connection.cursor()

    def reach(name):
        if how == "apart" and name != "ending" or name == "ended":
            connection.commit()
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    while True:
        reach("connected")
        cursor.execute("select claim_id from tailwater.claim('crm', 'orders')")
        if (window := cursor.fetchone()) is None:
            return
        reach("claimed")
        cursor.execute("select id from tailwater.keys_orders('crm')")
        keys = cursor.fetchall()
        reach("read")
        cursor.execute("insert into public.work (process, window_id, keys) values (%s, %s, %s)",
                       (os.getpid(), window, [key for key, in keys]))
        reach("worked")
        cursor.execute(f"select tailwater.{end}('crm', 'orders', %s)", window)
        reach("ending")
        reach("ended")


main(*sys.argv[1:])
