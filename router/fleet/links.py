"""How long does a hand-over take? The links into one decode engine, by the prefill engine that they come from.

From the prefill answer to decode's first event, by the tokens whose KV had to be moved, those before them in line
included. What is under way tells as well, before it is over: a hand-over that takes longer than it should proves that
its link is no faster than that. So does the first one that is over, long before there is an estimate: it speaks against
its link, while three are needed to speak for it. Of a link that nobody has heard of the others into the same engine
tell: where they are slow, it is hardly the one that is not.

A link that is passed over, as it is slow, would stay slow for ever: it is due for a trial now and then, one link into
an engine after the other.
"""

import math
from collections.abc import Collection, Iterable, Iterator

from router.fleet.pace import ENOUGH, Pace

LATE_S = 0.1
"""A first handshake takes so long; nothing younger is late."""

LATE_TIMES = 2.0

FEW_TOKENS = 512
"""What held up fewer than so many would hold up so many as long."""

TRIAL_REQUESTS, TRIAL_S = 32, 10.0
"""Links that are passed over get at most one request of so many together, and one in such a time."""

NEW_REQUESTS = 8
"""Links of which little is known, and that speaks against them, get one request of so many."""

TRIAL_LOSS_S, DOUBLINGS = 0.25, 5
"""What a request may lose by a trial when it is due; however long there was none, it is never doubled more often."""

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
        self.last_at, self.heard_at = now, -math.inf

    @property
    def in_doubt(self) -> bool:
        """Whether it was not what was expected when it was chosen last: the next ones tell whether it has changed."""
        return self.pace.in_doubt and self.is_over

    @property
    def is_over(self) -> bool:
        """Whether all that it was chosen for has been heard of."""
        return not self.moving and self.heard_at >= self.last_at

    def is_free(self, now: float) -> bool:
        """Whether nothing is under way over it, nor about to be: what was not heard of for `TRIAL_S` has been lost."""
        return not self.moving and (self.heard_at >= self.last_at or now - self.last_at > TRIAL_S)

    @property
    def is_known(self) -> bool:
        """Whether there were enough hand-overs for an estimate."""
        return self.pace.tokens_per_s is not None

    @property
    def is_new(self) -> bool:
        """Whether one hand-over at most came to its end."""
        return self.pace.samples <= 1

    @property
    def is_heard(self) -> bool:
        """Whether a hand-over has ever come to its end."""
        return self.pace.samples > 0

    @property
    def compared_s(self) -> float | None:
        """How long `COMPARED_TOKENS` take, at least, while it is not known; None while nobody has heard of it."""
        speed = self.pace.tokens_per_s
        if speed:
            return COMPARED_TOKENS / speed
        return self._seen_s(COMPARED_TOKENS) if self.is_heard else None

    def seconds(self, tokens: int) -> float | None:
        """How long so many tokens would take now; None while that is not known."""
        return self.pace.seconds(tokens, self.moving_tokens)

    def at_least_s(self, tokens: int, now: float) -> float:
        """What the first hand-overs prove while they are few, and the oldest one under way if that is late."""
        line_tokens = tokens + self.moving_tokens
        seen_s = self._seen_s(line_tokens)
        return max(seen_s, self._late_s(line_tokens, now)) if self.is_late(now) else seen_s

    def _seen_s(self, tokens: int) -> float:
        """By the best of those that are too few for an estimate, or too short: one may have been held up, not all.

        What is more than `LATE_S` is the link's own, and grows with the tokens.
        """
        best_s, seen = math.inf, self.pace.seen(tokens)
        for moved_tokens, took_s in seen:
            fixed_s = min(took_s, LATE_S)
            times = tokens / max(moved_tokens, min(tokens, FEW_TOKENS), 1)
            best_s = min(best_s, fixed_s + (took_s - fixed_s) * times)
        return best_s if seen else 0.0

    def _late_s(self, line_tokens: int, now: float) -> float:
        """By the age of the oldest one under way.

        More tokens take longer in proportion, but only from `COMPARED_TOKENS` on: what holds up a few of them is rather
        a pause or a handshake than the link.
        """
        oldest = next(iter(self.moving))
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
        self._links.note(self._link, self.line_tokens, now - self.began_at)

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

    __slots__ = ("_best", "_compared_s", "_links", "_tried", "_tried_asked", "_tried_at", "asked", "best_s", "slow")

    def __init__(self) -> None:
        self.asked = 0
        self.slow: frozenset[str] = frozenset()
        self.best_s: float | None = None
        self._links: dict[str, Link] = {}
        self._best: Link | None = None
        self._compared_s: dict[str, float] = {}
        self._tried: Link | None = None
        self._tried_asked, self._tried_at = 0, 0.0

    def ask(self, now: float, prefill: str | None = None, *, trial: bool = False) -> None:
        """A hand-over came into question, and is to be made from `prefill`, as a trial or not; None: it is not made."""
        self.asked += 1
        if prefill is None:
            return
        link = self._made(prefill, now) if trial else self._links.get(prefill)
        if link is None:
            return
        link.asked, link.last_at = self.asked, now
        if trial:
            self._tried, self._tried_asked, self._tried_at = link, self.asked, now

    def begin(self, prefill: str, tokens: int, now: float) -> Moving:
        """KV of so many tokens is about to be moved."""
        return Moving(self, self._made(prefill, now), tokens, now)

    def _made(self, prefill: str, now: float) -> Link:
        link = self._links.get(prefill)
        if link is None:
            if len(self._links) >= MAX_LINKS:
                self.forget(next(iter(self._links)))
            link = self._links[prefill] = Link(prefill, self.asked, now)
        return link

    def get(self, prefill: str) -> Link | None:
        """The link from an engine, if one was ever begun, or chosen for a trial."""
        return self._links.get(prefill)

    def at_least_s(self, prefill: str, tokens: int, now: float) -> float:
        """How long so many tokens take from an engine, at least, as far as anything speaks for that; 0 if nothing does.

        Of a link that nobody has heard of the best one into the same engine tells.
        """
        link, best = self._links.get(prefill), self._best
        if link is not None and (link.is_heard or link.is_late(now)):
            return link.at_least_s(tokens, now)
        if best is not None:
            return max(best.pace.seconds(tokens) or 0.0, best.at_least_s(tokens, now))
        return min((each.at_least_s(tokens, now) for each in self._links.values() if each.is_late(now)), default=0.0)

    def new(self, prefills: Iterable[str], now: float) -> str | None:
        """One of some prefill engines whose link should be tried now, as it is new; another one each time.

        There was no hand-over, and the others are slow; or one, which may have been slow by accident. The next one
        waits until the last is heard of, or is given up.
        """
        if self._tried is not None:
            is_over = self._tried.is_over or now - self._tried_at > TRIAL_S
            if not is_over or self.asked - self._tried_asked < NEW_REQUESTS:
                return None
        links = self._links
        new = [each for each in prefills if (link := links.get(each)) is None or (link.is_new and link.is_free(now))]
        return new[self.asked % len(new)] if new else None

    def due(self, now: float) -> list[Link]:
        """Links that were chosen a while ago, the one that waits for the longest first: if passed over, to be tried.

        None for a while after a trial; if that was not what was expected, the same one at once.
        """
        asked, at = self.asked - TRIAL_REQUESTS, now - TRIAL_S
        doubtful = [self._tried] if self._tried is not None and self._tried.in_doubt else []
        if self._tried is not None and (self._tried_asked > asked or self._tried_at > at):
            return doubtful
        due = [link for link in self._links.values() if link.asked <= asked and link.last_at <= at and not link.moving]
        return doubtful + sorted(due, key=lambda link: link.asked)

    def may_lose(self, prefill: str, loss_s: float, now: float) -> bool:
        """Whether a request that would lose so much by a trial should make it: the more, the longer there was none.

        A new link may be suspected for one accident: where fewer hand-overs came to their end than an estimate needs,
        over all links, patience ends soon. It is counted from when a link was chosen last; of one that never was, from
        when any was.
        """
        link = self._links.get(prefill)
        chosen = self._links.values() if link is None else (link,)
        asked = self.asked - max([self._tried_asked, *(each.asked for each in chosen)])
        waited_s = now - max([self._tried_at, *(each.last_at for each in chosen)])
        times = min(asked / TRIAL_REQUESTS, waited_s / TRIAL_S)
        if (link is None or link.is_new) and sum(each.pace.samples for each in self._links.values()) < ENOUGH:
            times = 2.0 ** min((asked - TRIAL_REQUESTS) // NEW_REQUESTS, DOUBLINGS)
        return loss_s <= TRIAL_LOSS_S * min(max(times, 1.0), 2.0**DOUBLINGS)

    def slow_now(self, now: float) -> Collection[str]:
        """Those that are slow, and those from which a hand-over is late."""
        late = [prefill for prefill, link in self._links.items() if link.moving and link.is_late(now)]
        return self.slow.union(late) if late else self.slow

    def note(self, link: Link, tokens: int, took_s: float) -> None:
        """A hand-over over a link is done: find out anew which are slow."""
        link.pace.note(tokens, took_s)
        if self._links.get(link.prefill) is not link:
            return
        if (compared_s := link.compared_s) is not None:
            self._compared_s[link.prefill] = compared_s
            self._judge()

    def _judge(self) -> None:
        """All are compared with the best of those that are known; while none is, with the best that was heard of."""
        compared_s, links = self._compared_s, self._links
        self.best_s = min((took_s for prefill, took_s in compared_s.items() if links[prefill].is_known), default=None)
        best = min(compared_s, key=compared_s.__getitem__, default=None)
        self._best = links[best] if best is not None else None
        best_s = self.best_s if self.best_s is not None else min(compared_s.values(), default=0.0)
        limit_s = max(SLOW_TIMES * best_s, best_s + SLOW_S)
        if max(compared_s.values(), default=0.0) > limit_s:
            self.slow = frozenset(prefill for prefill, took_s in compared_s.items() if took_s > limit_s)
        elif self.slow:
            self.slow = frozenset()

    def forget(self, prefill: str) -> None:
        """An engine is gone, or is another one now."""
        link = self._links.pop(prefill, None)
        if link is not None:
            if link is self._tried:
                self._tried = None
            self._compared_s.pop(prefill, None)
            self._judge()

    def items(self) -> Iterator[tuple[str, Link]]:
        """All of them, by the id of the prefill engine."""
        yield from self._links.items()

    def __len__(self) -> int:
        return len(self._links)

    def __repr__(self) -> str:
        return f"<Links {self._links}>"
