"""What a gateway should have counted, by what its clients saw: the other side of its books.

A client knows its own answer, byte by byte; which way its request went is known from what the engines of its model do.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from prometheus_client.parser import text_string_to_metric_families

from router.call import Api
from router.sim import tokens
from router.sim.request import parse_body
from tests.support.client import Reply, Verdict, judge

Sample = tuple[str, tuple[tuple[str, str], ...]]
"""A metric's name without prefix, and its labels in order."""

PREFIX = "pd_router_"

COUNTS = ("_total", "_count")
"""How the names of what only ever grows end, sums of seconds and buckets apart."""

OF_TIME = ("loop_lag_seconds_count",)
"""What grows by itself."""

OUTCOMES = {502: "upstream_error", 503: "rejected", 504: "timeout"}


def sample(name: str, **labels: str) -> Sample:
    """The key of a series."""
    return name, tuple(sorted(labels.items()))


def counted(page: str) -> Counter[Sample]:
    """Every series of a metrics page that counts and is not 0."""
    samples = (s for family in text_string_to_metric_families(page) for s in family.samples)
    found = Counter[Sample]()
    for one in samples:
        name = one.name.removeprefix(PREFIX)
        if name.endswith(COUNTS) and name not in OF_TIME and one.value:
            found[sample(name, **one.labels)] = one.value  # type: ignore[assignment]
    return found


@dataclass(frozen=True)
class Way:
    """How requests of one sort go, as the engines of their model decide: route at the end, decision at the beginning.

    `prefills` of its prefill legs end well; `per_request` is what each adds beside. `label` is what metrics call the
    model, if not by its name.
    """

    route: str = "disaggregated"
    decision: tuple[str, str] | None = ("disaggregated", "novel_prompt")
    prefills: int = 1
    per_request: Mapping[Sample, int] = field(default_factory=dict)
    label: str | None = None


@dataclass
class Tally:
    """What clients saw, as the samples that the gateway should have."""

    expected: Counter[Sample] = field(default_factory=Counter)
    requests: int = 0

    def add(self, name: str, by: int = 1, **labels: str) -> None:
        """So many more of a series."""
        self.expected[sample(name, **labels)] += by

    def of(self, name: str, **labels: str) -> int:
        """The sum of the series with these labels."""
        return sum(n for (other, have), n in self.expected.items() if other == name and labels.items() <= set(have))

    def answered(self, way: Way, api: Api, body: dict[str, Any], reply: Reply) -> None:
        """A request that was read to its end."""
        verdict = judge(reply, body, api)
        outcome = {Verdict.RIGHT: "ok", Verdict.BROKEN_OFF: "upstream_error"}.get(verdict)
        self.ended(way, api, body["model"], outcome or OUTCOMES.get(reply.status, "client_error"))
        if verdict is not Verdict.REFUSED:
            self._began(way, api, body, reply)

    def ended(self, way: Way, api: Api, model: str, outcome: str) -> None:
        """A request that ended so, whether or not anybody was left to see it."""
        self.requests += 1
        model = way.label or model
        self.add("requests_total", model=model, api=api.label, route=way.route, outcome=outcome)
        self.add("request_seconds_count", model=model, route=way.route)
        if way.decision is not None:
            self.add("decisions_total", route=way.decision[0], reason=way.decision[1])
        self.add("prefill_seconds_count", way.prefills, model=model)
        self.expected.update(way.per_request)

    def streamed(self, way: Way, model: str, events: int) -> None:
        """A stream of which so many events came."""
        self.add("ttft_seconds_count", model=model, route=way.route)
        self.add("inter_token_seconds_count", events - 1, model=model, route=way.route)
        if way.route == "disaggregated":
            self.add("handoff_seconds_count", model=model)

    def tokens(self, model: str, prompt: int, generated: int) -> None:
        """Tokens of an answer that began."""
        self.add("tokens_total", prompt, model=model, kind="prompt")
        self.add("tokens_total", generated, model=model, kind="generated")

    def _began(self, way: Way, api: Api, body: dict[str, Any], reply: Reply) -> None:
        model = body["model"]
        if not body.get("stream"):
            usage = orjson.loads(reply.body)["usage"]
            self.tokens(model, prompt_tokens(api, body), usage["completion_tokens"])
            return
        contents = [orjson.loads(event[6:]) for event in bytes(reply.body).split(b"\n\n")[:-2]]
        events = [content for content in contents if "error" not in content]
        self.streamed(way, model, len(events))
        whole = len(events) == len(contents)
        self.tokens(model, prompt_tokens(api, body), sum(map(_has_text, events)) if whole else len(events))


def usage_of(body: dict[str, Any], reply: Reply) -> dict[str, Any]:
    """The usage that a client was told."""
    if not body.get("stream"):
        return dict(orjson.loads(reply.body)["usage"])
    *_, last, _done, _ = bytes(reply.body).split(b"\n\n")
    return dict(orjson.loads(last[6:])["usage"])


def prompt_tokens(api: Api, body: dict[str, Any]) -> int:
    """How long a prompt is to a simulated engine."""
    request = parse_body("chat" if api is Api.CHAT else "completions", body)
    return sum(tokens.count(prompt) for prompt in request.prompts)


def _has_text(event: dict[str, Any]) -> bool:
    """One token each: the event with the role has none, nor has the one with the usage."""
    return any(choice.get("text") or choice.get("delta", {}).get("content") for choice in event["choices"])
