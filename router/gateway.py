"""The life of a request, one named step after the other. docs/life-of-a-request.md tells the same story."""

import asyncio
import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from router.admission.grant import Grant
from router.admission.line import Line
from router.admission.permits import Permits
from router.call import DEFAULT_BOUNDS, Api, Call, Trace, understand
from router.errors import EngineFault, InternalFault, Outcome, RequestError, Unavailable
from router.exchange.exchange import Exchange, Legs
from router.exchange.relay import Client, relay
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.json_bounds import JsonBounds, loads
from router.retries import Retries, Tries
from router.routing.choose import Chooser
from router.routing.route import Route, Shortage
from router.routing.sent import Sent
from router.routing.timed import Timed
from router.settings.engines import Role
from router.telemetry.events import Clock, Journey, NoTraces, Observers, RouteKind, Traces

log = logging.getLogger(__name__)

UNTRACED = NoTraces()

LONG_BODY_BYTES = 256 << 10


class Connected(Client, Protocol):
    """A client with a request to read. `session` is what it calls its conversation in the head, a hint."""

    trace: Trace
    session: str | None

    async def body(self) -> bytes:
        """The request's body, within limits."""

    def present(self, *, stream: bool) -> AbstractContextManager[None]:
        """A block that ends with `ClientGone` as soon as the client leaves; `stream`: it waits for one."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """Takes requests from the edge to the engines and back."""

    fleet: Fleet
    chooser: Chooser
    permits: Permits
    line: Line
    queue_timeout_s: float
    exchange: Exchange
    retries: Retries
    observers: Observers
    clock: Clock
    strip_engine_fields: bool
    json_bounds: JsonBounds = DEFAULT_BOUNDS
    traces: Traces = UNTRACED

    async def handle(self, api: Api, client: Connected) -> None:
        """One request. Whatever happens, the client gets one answer and the journey one end."""
        received_at = self.clock()
        trace = self.traces.begin(client.trace, api.value, received_at)
        journey = Journey(trace.request_id, api.label, received_at, self.clock, self.observers, trace)
        try:
            call = await self.receive(api, client, trace)
            with client.present(stream=call.stream):
                tries = self.retries.begin(call.model, journey.received_at)
                while not await self._served(call, client, tries, journey):
                    pass
            journey.settled(Outcome.OK, 200)
        except RequestError as error:
            await _failed(error, client, journey)
        except asyncio.CancelledError:  # the time to drain is over
            stopping = Unavailable("the gateway is stopping", code="stopping")
            await _failed(stopping, client, journey)
            raise
        except Exception as error:
            log.exception(
                "a request failed by a fault of the gateway", extra={"facts": {"request_id": trace.request_id}}
            )
            if journey.outcome is None:
                await _failed(InternalFault(type(error).__name__), client, journey)

    async def _served(self, call: Call, client: Connected, tries: Tries, journey: Journey) -> bool:
        """One try. False when it failed before an answer began and another is due."""
        route = await self._place(call, tries, journey)
        try:
            with (  # admit, lease
                Timed(call, route, self.clock()) as timed,
                Grant(self.permits, route.decode, route.prefill, call.prompt_tokens, route.cached_tokens) as grant,
                Sent(self.chooser.prefixes, call, route) as sent,
            ):
                journey.chosen(route.kind, route.reason, route.decode.id, route.prefill.id if route.prefill else None)
                legs = Legs(route.decode, route.prefill, partial(self._prefill_over, grant, sent, timed))
                async with self.exchange.open(call, legs, journey) as opened:
                    grant.answer_began()
                    sent.answered(0)
                    timed.answer_began(self.clock(), handed_over=journey.route is RouteKind.DISAGGREGATED)
                    self.retries.worked(route, journey)
                    await relay(opened, client, journey)
                    sent.answered(journey.generated_tokens)
                    if opened.at_own_pace:
                        timed.ended(journey.generated_tokens, self.clock())
                    self.chooser.learn(call, journey.usage or journey.prefill_usage)
        except EngineFault as fault:
            await self.retries.after(fault, route, tries, journey)
            return False
        return True

    async def receive(self, api: Api, client: Connected, trace: Trace) -> Call:
        """The request, read in two steps of the loop when it is long: each may take tens of milliseconds.

        Raises `RequestError` when it is none that could be served.
        """
        raw = await client.body()
        fields = loads(raw, self.json_bounds)
        if len(raw) > LONG_BODY_BYTES:
            await asyncio.sleep(0)
        call = understand(api, fields, trace, strip_engine_fields=self.strip_engine_fields, session=client.session)
        self.chooser.measure(call)
        return call

    async def _place(self, call: Call, tries: Tries, journey: Journey) -> Route:
        """A route with room, to be taken in the same tick; waits in line for one where that may help."""
        since = journey.placing_at = woken_at = self.clock()
        pool: Role | None = None
        while True:
            try:
                # who has waited takes whatever is free, as those behind would: also an engine that failed it before
                route = self._choose(call, tries, journey, avoid=tries.avoid if pool is None else frozenset())
            except RequestError:
                self.line.call_all_next(call.model)  # who waits is to hear of it, too
                raise
            if isinstance(route, Shortage):
                short = route.pool
            elif pool is None and (others := self.line.before(call.model, route.draws_on)):
                short = others
            else:
                break
            if pool is not None and pool is not short:  # a turn that is of no use is the next one's
                self.line.call_next(call.model, pool)
            await self.line.wait(call.model, short, since + self.queue_timeout_s, again=pool is not None)
            pool, woken_at = short, self.clock()
        if pool is not None:
            journey.queued(pool, woken_at - since)
            self.line.call_next(call.model, pool)
        return route

    def _choose(self, call: Call, tries: Tries, journey: Journey, *, avoid: frozenset[Backend]) -> Route | Shortage:
        """The route of a call, or the pool that has no room for it now. Raises what the client is told else."""
        journey.stream, journey.prompt_tokens = call.stream, call.prompt_tokens
        snapshot = self.fleet.snapshot(call.model, avoid, self.clock()).of_known_model()
        journey.model, journey.arm = call.model, self.chooser.modes.arm(call.trace.request_id)
        route = self.chooser.choose(call, snapshot, local=tries.local)
        if isinstance(route, Shortage):
            journey.reason = route.reason
            if not route.saturated:
                raise Unavailable(f"no {route.pool} engine is available", code=route.reason)
        return route

    def _prefill_over(self, grant: Grant, sent: Sent, timed: Timed, outcome: Outcome) -> None:
        """Who is to hear how a prefill leg ended."""
        grant.settle_prefill(outcome)
        sent.prefill_over(outcome)
        timed.prefill_over(outcome, self.clock())


async def _failed(error: RequestError, client: Connected, journey: Journey) -> None:
    journey.settled(error.outcome, error.status, error)
    await client.fail(error)
