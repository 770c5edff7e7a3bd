"""How long does a hand-over take? The links into one decode engine, by the prefill engine that they come from.

From the prefill answer to decode's first event, by the tokens whose KV had to be moved, those before them in line
included. What is under way tells as well, before it is over: a hand-over that takes longer than it should proves that
its link is no faster than that.

A link that is passed over, as it is slow, would stay slow for ever: it is due for a trial now and then, one link into
an engine after the other.
"""

from collections.abc import Collection, Iterator

from router.fleet.pace import Pace

LATE_S = 0.1
"""A first handshake takes so long; nothing younger is late."""

LATE_TIMES = 2.0

TRIAL_REQUESTS, TRIAL_S = 32, 10.0
"""Links that are passed over get at most one request of so many together, and one in such a time."""

TRIAL_LOSS_S, PATIENCE = 0.25, 4
"""One that loses little by it, as long as there is one in so many times `TRIAL_REQUESTS`."""

SLOW_TIMES, SLOW_S = 3.0, 0.02
"""A link is slow beside the best one if it takes so many times as long, and so much longer."""

COMPARED_TOKENS = 4096
"""The length of a prompt by which links are compared."""

MAX_LINKS = 1024
"""Kept for one decode engine, as hand-overs may end after their prefill engine has left."""


class Link:
    """From one prefill engine. `moving` are the hand-overs under way, the oldest first.

    It was chosen last at `last_at`, when the count of its `Links` was `asked`, and heard of at `heard_at`.
    """

    __slots__ = ("asked", "heard_at", "last_at", "moving", "moving_tokens", "pace", "prefill")

    def __init__(self, prefill: str, asked: int, now: float) -> None:
        self.prefill = prefill
        self.pace = Pace(COMPARED_TOKENS)
        self.moving: dict[Moving, None] = {}
        self.moving_tokens = 0
        self.asked = asked
        self.last_at = self.heard_at = now

    @property
    def in_doubt(self) -> bool:
        """Whether it was not what was expected when it was chosen last: the next ones tell whether it has changed."""
        return self.pace.in_doubt and not self.moving and self.heard_at >= self.last_at

    @property
    def compared_s(self) -> float | None:
        """How long `COMPARED_TOKENS` take; None while that is not known."""
        speed = self.pace.tokens_per_s
        return COMPARED_TOKENS / speed if speed else None

    def seconds(self, tokens: int) -> float | None:
        """How long so many tokens would take now; None while that is not known."""
        return self.pace.seconds(tokens, self.moving_tokens)

    def at_least_s(self, tokens: int, now: float) -> float:
        """What the oldest hand-over under way proves; 0 while that is not late.

        More tokens take longer in proportion, but only from `COMPARED_TOKENS` on: what holds up a few of them is rather
        a pause or a handshake than the link.
        """
        if not self.is_late(now):
            return 0.0
        oldest = next(iter(self.moving))
        line_tokens = tokens + self.moving_tokens
        return (now - oldest.began_at) * line_tokens / max(oldest.line_tokens, min(line_tokens, COMPARED_TOKENS), 1)

    def is_late(self, now: float) -> bool:
        """Whether the oldest hand-over under way takes far longer than expected."""
        if not self.moving:
            return False
        oldest = next(iter(self.moving))
        age_s = now - oldest.began_at
        return age_s > LATE_S and age_s > LATE_TIMES * (self.pace.seconds(oldest.line_tokens) or 0.0)

    def __repr__(self) -> str:
        return f"<Link {self.pace!r}, {len(self.moving)} moving>"


class Moving:
    """One hand-over under way; `line_tokens` are those that its link had to move when it began, its own included."""

    __slots__ = ("_link", "_links", "_tokens", "began_at", "line_tokens")

    def __init__(self, links: "Links", link: Link, tokens: int, now: float) -> None:
        self._links, self._link = links, link
        self._tokens = tokens
        self.began_at = now
        link.moving_tokens += tokens
        self.line_tokens = link.moving_tokens
        link.moving[self] = None

    def arrived(self, now: float) -> None:
        """The answer has begun."""
        self.gone()
        self._link.heard_at = now
        self._link.pace.note(self.line_tokens, now - self.began_at)
        self._links.compare(self._link)

    def gone(self) -> None:
        """It is over, whatever became of it; a second time does nothing."""
        if self in self._link.moving:
            del self._link.moving[self]
            self._link.moving_tokens -= self._tokens


class Links:
    """All links into one decode engine.

    `asked` counts requests for which a hand-over to this engine came into question, whoever got them then; `slow` are
    the prefill engines from which one takes far longer than from the best, which needs `best_s` for a prompt of
    `COMPARED_TOKENS`, if it is known.
    """

    __slots__ = ("_known_s", "_links", "_tried", "_tried_asked", "_tried_at", "asked", "best_s", "slow")

    def __init__(self) -> None:
        self.asked = 0
        self.slow: frozenset[str] = frozenset()
        self.best_s: float | None = None
        self._links: dict[str, Link] = {}
        self._known_s: dict[str, float] = {}
        self._tried: Link | None = None
        self._tried_asked, self._tried_at = 0, 0.0

    def ask(self, now: float, prefill: str | None = None, *, trial: bool = False) -> None:
        """A hand-over came into question, and is to be made from `prefill`, as a trial or not; None: it is not made."""
        self.asked += 1
        link = self._links.get(prefill) if prefill else None
        if link is None:
            return
        link.asked, link.last_at = self.asked, now
        if trial:
            self._tried, self._tried_asked, self._tried_at = link, self.asked, now

    def begin(self, prefill: str, tokens: int, now: float) -> Moving:
        """KV of so many tokens is about to be moved."""
        link = self._links.get(prefill)
        if link is None:
            if len(self._links) >= MAX_LINKS:
                self.forget(next(iter(self._links)))
            link = self._links[prefill] = Link(prefill, self.asked, now)
        return Moving(self, link, tokens, now)

    def get(self, prefill: str) -> Link | None:
        """The link from an engine, if there ever was a hand-over."""
        return self._links.get(prefill)

    def due(self, now: float) -> list[Link]:
        """Links that were chosen a while ago, the one that waits for the longest first: if passed over, to be tried.

        None for a while after a trial; if that was not what was expected, the same one at once.
        """
        asked, at = self.asked - TRIAL_REQUESTS, now - TRIAL_S
        if self._tried is not None:
            if self._tried.in_doubt:
                return [self._tried]
            if self._tried_asked > asked or self._tried_at > at:
                return []
        due = [link for link in self._links.values() if link.asked <= asked and link.last_at <= at and not link.moving]
        return sorted(due, key=lambda link: link.asked)

    def may_lose(self, link: Link, loss_s: float) -> bool:
        """Whether a request that would lose so much by a trial should make it: little, or nobody else has for long."""
        return loss_s <= TRIAL_LOSS_S or self.asked - link.asked >= PATIENCE * TRIAL_REQUESTS

    def slow_now(self, now: float) -> Collection[str]:
        """Those that are slow, and those from which a hand-over is late."""
        late = [prefill for prefill, link in self._links.items() if link.moving and link.is_late(now)]
        return self.slow.union(late) if late else self.slow

    def compare(self, link: Link) -> None:
        """Find out anew which are slow, after a hand-over."""
        took_s = link.compared_s
        if took_s is not None and self._links.get(link.prefill) is link:
            self._known_s[link.prefill] = took_s
            self._judge()

    def _judge(self) -> None:
        known_s = self._known_s
        self.best_s = best_s = min(known_s.values(), default=None)
        limit_s = 0.0 if best_s is None else max(SLOW_TIMES * best_s, best_s + SLOW_S)
        if max(known_s.values(), default=0.0) > limit_s:
            self.slow = frozenset(prefill for prefill, took_s in known_s.items() if took_s > limit_s)
        elif self.slow:
            self.slow = frozenset()

    def forget(self, prefill: str) -> None:
        """An engine is gone, or is another one now."""
        link = self._links.pop(prefill, None)
        if link is not None:
            if link is self._tried:
                self._tried = None
            self._known_s.pop(prefill, None)
            self._judge()

    def items(self) -> Iterator[tuple[str, Link]]:
        """All of them, by the id of the prefill engine."""
        yield from self._links.items()

    def __len__(self) -> int:
        return len(self._links)

    def __repr__(self) -> str:
        return f"<Links {self._links}>"
