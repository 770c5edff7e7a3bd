import asyncio
from typing import cast

import pytest

from router.fleet.fleet import Fleet
from router.fleet.kv_events import subscriber, subscriptions
from router.fleet.kv_events.subscriber import Listener, Subscriber
from router.fleet.kv_events.subscriptions import Subscriptions
from tests.support.builders import a_backend

EVENTS = {"endpoint": "tcp://127.0.0.1:1"}


async def test_engines_are_followed_for_as_long_as_they_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    followed: list[str] = []

    async def run(self: Subscriber) -> None:
        followed.append(self._engine.id)
        try:
            await asyncio.Event().wait()
        finally:
            followed.remove(self._engine.id)

    async def turns() -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    monkeypatch.setattr(subscriptions, "LOOK_S", 0)
    monkeypatch.setattr(subscriber.Subscriber, "run", run)
    one, other, silent = a_backend(port=1, kv_events=EVENTS), a_backend(port=2, kv_events=EVENTS), a_backend(port=3)
    fleet = Fleet([silent])
    async with asyncio.TaskGroup() as group:
        task = group.create_task(Subscriptions(fleet, cast(Listener, None)).run())
        await turns()
        assert followed == []
        fleet.backends = (silent, one, other)
        await turns()
        assert sorted(followed) == [one.id, other.id]
        fleet.backends = (other, silent)
        await turns()
        assert followed == [other.id]
        task.cancel()
    assert followed == []
