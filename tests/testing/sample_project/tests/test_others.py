"""Tests that have nothing to do with a cluster, run by whom they always were."""

import asyncio


async def test_of_pytest_asyncio():
    assert type(asyncio.get_running_loop()).__module__ != "pinnace.testing.loop"


def test_plain():
    assert True
