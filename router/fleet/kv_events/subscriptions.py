"""Who is followed? Every engine of the fleet that has KV events, for as long as it is there."""

import asyncio
from typing import TYPE_CHECKING

from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.supervision import LastResort

if TYPE_CHECKING:
    from zmq.asyncio import Context

    from router.fleet.kv_events.subscriber import Listener

LOOK_S = 0.5
"""Pause between looks at who is in the fleet."""


class Subscriptions:
    """Follows the events of a fleet's engines until cancelled; `listener` hears of them."""

    def __init__(self, fleet: Fleet, listener: "Listener") -> None:
        self._fleet = fleet
        self._listener = listener
        self._followed: dict[Backend, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Follow for ever. ZeroMQ, which is an extra, is not touched before there is an engine that needs it."""
        await self._first()
        from router.fleet.kv_events.subscriber import sockets  # noqa: PLC0415 - an extra

        last_resort = LastResort("KV events")
        with sockets() as context:
            async with asyncio.TaskGroup() as group:
                while True:
                    with last_resort.turn():
                        self._look(group, context)
                    await asyncio.sleep(LOOK_S)

    async def _first(self) -> None:
        """Wait for an engine to follow."""
        while True:
            if self._wanted():
                return
            await asyncio.sleep(LOOK_S)

    def _look(self, group: asyncio.TaskGroup, context: "Context") -> None:
        """Follow who has come, and leave who is gone."""
        from router.fleet.kv_events.subscriber import Subscriber  # noqa: PLC0415 - an extra

        wanted = self._wanted()
        for gone in self._followed.keys() - wanted:
            self._followed.pop(gone).cancel()
        for engine in wanted - self._followed.keys():
            subscriber = Subscriber(engine, context, self._listener)
            self._followed[engine] = group.create_task(subscriber.run(), name=f"KV events {engine.id}")

    def _wanted(self) -> set[Backend]:
        return {backend for backend in self._fleet.backends if backend.settings.kv_events is not None}
