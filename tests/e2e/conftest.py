"""What several files of feeds' tests share."""

import pytest

from lib.receiver import Receiver
from lib.shop import FACTS, SCHEMA, Shop


@pytest.fixture
def shop(source, make_pipeline):
    source.sql(SCHEMA)
    pipeline = make_pipeline(facts=FACTS)
    pipeline.start().wait_until_caught_up()
    shop = Shop(pipeline)
    yield shop
    shop.close()


@pytest.fixture
def receiver():
    one = Receiver()
    yield one
    one.stop()
    assert one.wrong == []
