"""Large values: stored out of line, changed and unchanged; and what no protocol can carry."""

import pytest

from lib.pipeline import FAILED
from test_types import same

TYPES = r"""
create type part as (label text, data bytea);
create table big (id int primary key, n int, t text, b bytea, c char(200000), j json, k jsonb, x xml, a text[],
                  m bytea[], p part, q part[], v tsvector, r nummultirange, y bit varying, num numeric,
                  w int[] not null default '{}', h path, z text collate "C");
alter table big alter t set storage external, alter b set storage external, alter x set storage external;
"""

# Hard to compress, of a length.
NOISE = "(select string_agg(md5(({0} * 7919 + i)::text), '') from generate_series(1, {1}) i)"


def values(seed, megabytes):
    noise = NOISE.format(seed, 1000)
    large = NOISE.format(seed, megabytes * 32768)
    return f"""{seed}, {large} || E'\n\\\\"\x01', decode({large}, 'hex'), {noise},
        json_build_object('a', {noise}, 'b', E'\\\\"\n'), jsonb_build_object('a', {noise}, 'n', 1.50),
        ('<a>' || {noise} || '</a>')::xml, array[{noise}, null, E'{{"\\\\,'],
        array[decode({noise}, 'hex'), '\\x00'], row({noise}, decode({noise}, 'hex'))::part,
        array[row({noise}, null)::part, null],
        (select array_to_tsvector(array_agg(md5(({seed} + i)::text))) from generate_series(1, 2000) i),
        (select range_agg(numrange(i * 2, i * 2 + 1)) from generate_series({seed}, {seed} + 2000) i),
        repeat('10', 40000 + {seed})::varbit, (repeat('9', 3000) || '.{seed}')::numeric,
        (select array_agg(i * {seed}) from generate_series(1, 5000) i),
        (select ('[' || string_agg('(' || i || ',{seed})', ',') || ']')::path from generate_series(1, 2000) i),
        {noise}"""


def test_large_values(source, mirror, make_pipeline):
    source.sql(TYPES)
    columns = "n, t, b, c, j, k, x, a, m, p, q, v, r, y, num, w, h, z"

    def row(key, seed, megabytes):
        source.sql(f"insert into big (id, {columns}) select {key}, {values(seed, megabytes)}", user="postgres")

    row(1, 1, 10)
    pipeline = make_pipeline(tables=["public.big"]).publish()
    pipeline.start().wait_until_caught_up()
    same(source, mirror, "big")
    row(2, 2, 2)
    row(3, 3, 1)
    pipeline.wait_until_caught_up()
    same(source, mirror, "big")
    source.sql("update big set n = n + 1")
    source.sql("update big set id = id + 10, j = '{}' where id = 1")
    source.sql("begin; update big set t = 'short', q = null where id = 2; update big set n = 5, b = b || '\\x00' where "
               "id = 2; update big set id = 20 where id = 2; commit")
    pipeline.wait_until_caught_up()
    same(source, mirror, "big")
    assert pipeline.counter("repaired_rows") == 0
    pipeline.settle()


@pytest.mark.parametrize("output", ["wal2json 2.5"])
def test_p16_a_row_beyond_a_gigabyte(source, mirror, make_pipeline):
    """Bytes take two characters each, a message ends at 1 GB: the pipeline stops and says so."""
    source.sql("create table t (id int primary key, b bytea, c bytea); insert into t values (1)")
    pipeline = make_pipeline().publish()
    pipeline.start().wait_until_caught_up()
    source.sql("insert into t select 2, x, x from convert_to(repeat(' ', 270000000), 'UTF8') x")
    assert pipeline.wait_exit(90) == FAILED, pipeline.log_tail()
    assert "whose message would pass 1 GB" in pipeline.this_run(), pipeline.log_tail()
    assert mirror.value("select count(*) from t") == 1
