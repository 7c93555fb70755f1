"""What the tests of pitfalls share.  Each test is named after its pitfall: docs/pitfalls.md."""

from lib import wait


STOP = {"on_error": "stop"}


def running(make_pipeline, published=(), **keys):
    """A pipeline that has copied and streams; with pgoutput of all tables that have a key, or these.

    What it would put a table into quarantine for ends it, so that no test overlooks it.
    """
    pipeline = make_pipeline(**{"apply": STOP, "schema_changes": "stop", **keys}).publish(*published)
    pipeline.start().wait_log(r"\[streaming\]")
    return pipeline.wait_until_caught_up()


def wait_until_repaired(pipeline, count=None):
    """The repair list is empty; count rows were fetched in all."""
    wait.until(lambda: not pipeline.mirror.value("select count(*) from tailwater.repair")
               and count in (None, pipeline.counter("repaired_rows")),
               lambda: f"{pipeline.counter('repaired_rows')} of {count} rows repaired\n"
                       f"{pipeline.log_tail()}")


def refused(pipeline, codes, *words):
    """Every start fails so, and the mirror's rows stay as they are (the cursor may pass what is idle)."""
    before = pipeline.snapshot()
    for _ in range(2):
        result = pipeline.verb("run", "--until", "now")
        assert result.code in codes, repr(result)
        for word in words:
            assert word in result.err, f"{word!r} is missing in\n{result!r}"
    assert pipeline.snapshot() == before
