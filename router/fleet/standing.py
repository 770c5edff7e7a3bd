"""May an engine be used? One small state machine over two kinds of evidence: probes, and how requests ended.

    state    | event                                         | becomes
    ---------+-----------------------------------------------+------------------------------------
    UNKNOWN  | good probe / bad probe                        | UP / DOWN
    UP       | `down_after` bad probes in a row              | DOWN
    UP       | `failures` refused connections in a row       | DOWN
    UP       | `failures` other failed requests in a row     | EJECTED, if its pool can spare it
    UP       | `silences` timeouts in a row, without a sign  | EJECTED and silent, if its pool can
             | of work in between                            | spare it
    DOWN     | `up_after` good probes in a row               | UP
    EJECTED  | its time is over, and a good probe            | TRIAL, unless it is silent
    EJECTED  | silent, and it answers a request of our own   | TRIAL
    EJECTED  | `down_after` bad probes in a row              | DOWN
    TRIAL    | `trial_successes` good requests               | UP
    TRIAL    | a failed request                              | EJECTED, for twice as long
    TRIAL    | `down_after` bad probes in a row              | DOWN

What requests tell beats what `/health` says: a frozen or broken engine may answer probes for ever. An engine on trial
gets one request at a time, and no client waits to find out whether a frozen one thawed: the gateway asks that itself.
An engine that came back gets a `share` of the load first that grows to that of the others over `slow_start_s`: its
caches are cold. Who is at fault for a failed request is decided elsewhere; clients' doings never count.
"""

from enum import StrEnum

from router.fleet.news import News
from router.settings.fleet import Ejection, Probes

LEAST_SHARE = 0.1


class State(StrEnum):
    """UNKNOWN engines have not answered yet and are not used; nor are those that are DOWN or EJECTED."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"
    EJECTED = "ejected"
    TRIAL = "trial"


class Standing:
    """State of one engine, since when (monotonic seconds) and why. Methods that take evidence tell of a change.

    `usable`: whether a request may be sent to it. One that an operator has `drained` only finishes what it has, one on
    trial has one request at a time. `news` tells when that changes.
    """

    def __init__(self, probes: Probes, ejection: Ejection, now: float) -> None:
        self.news = News()
        self._probes = probes
        self._ejection = ejection
        self._good = self._bad = 0
        self._refused = self._failed = self._silences = self._worked = 0
        self._ejected_until = 0.0
        self._ejection_s = ejection.first_s
        self.lives = 0
        self._on_trial = 0
        self.silent = False
        self.thawed = 0
        self.share = 1.0
        self._drained = False
        self.state = State.UNKNOWN
        self.usable = False
        self.since = now
        self.why = "not probed yet"

    @property
    def faltered(self) -> bool:
        """Whether it did not answer the last probe well: when it does again, it may be another process."""
        return self._bad > 0

    @property
    def drained(self) -> bool:
        """Whether an operator wants it to get no more requests."""
        return self._drained

    @drained.setter
    def drained(self, drained: bool) -> None:
        self._drained = drained
        self._judge()

    @property
    def on_trial(self) -> int:
        """Requests that find out whether it works again."""
        return self._on_trial

    @on_trial.setter
    def on_trial(self, requests: int) -> None:
        self._on_trial = requests
        self._judge()

    # Probes

    def good_probe(self, now: float) -> bool:
        """The engine answered well. It begins a new one of its `lives` when it had not before."""
        self.lives += self.lives == 0 or self.faltered
        self._good, self._bad = self._good + 1, 0
        if self.state is State.UP and self.share < 1:
            self.share = min(1.0, max(LEAST_SHARE, (now - self.since) / self._ejection.slow_start_s))
        if self.state is State.UNKNOWN or (self.state is State.DOWN and self._good >= self._probes.up_after):
            return self._enter(State.UP, "probes answered", now)
        if self.state is State.EJECTED and now >= self._ejected_until and not self.silent:
            return self._enter(State.TRIAL, "one request at a time, to see whether it works again", now)
        return False

    def woke(self, now: float) -> bool:
        """A silent engine answered a request of the gateway's own; what it pulls from now on may have expired."""
        self.thawed += self.silent
        return self.silent and self._enter(State.TRIAL, "it answers again", now)

    def bad_probe(self, why: str, now: float) -> bool:
        """The engine answered badly or not."""
        self._good, self._bad = 0, self._bad + 1
        if self.state is State.UNKNOWN:
            return self._enter(State.DOWN, why, now)
        return self.state is not State.DOWN and self._bad >= self._probes.down_after and self._down(why, now)

    # Requests

    def worked(self, now: float) -> bool:
        """The engine did its part of a request."""
        self._refused = self._failed = self._silences = 0
        if self.state is not State.TRIAL:
            return False
        self._worked += 1
        return self._worked >= self._ejection.trial_successes and self._enter(State.UP, "requests work again", now)

    def refused(self, now: float) -> bool:
        """The engine took no connection."""
        self._refused += 1
        usable = self.state in (State.UP, State.TRIAL)
        return usable and self._refused >= self._ejection.failures and self._down("connections are refused", now)

    def failed(self, why: str, now: float, *, can_be_spared: bool, silent: bool = False) -> bool:
        """The engine failed a request; `silent`: it let it wait, and showed no sign of work meanwhile."""
        self._failed += 1
        self._silences = self._silences + 1 if silent else 0
        hangs = self._silences >= self._ejection.silences
        if self.state is State.TRIAL:
            self._ejection_s = min(2 * self._ejection_s, self._ejection.longest_s)
        elif self.state is not State.UP or not can_be_spared or not (hangs or self._failed >= self._ejection.failures):
            return False
        elif now - self.since >= self._ejection.longest_s:
            self._ejection_s = self._ejection.first_s
        self._ejected_until = now + self._ejection_s
        changed = self._enter(State.EJECTED, f"{why}, {self._failed} in a row", now)
        self.silent = silent
        return changed

    def _down(self, why: str, now: float) -> bool:
        self._good = 0
        return self._enter(State.DOWN, why, now)

    def _enter(self, state: State, why: str, now: float) -> bool:
        if state is State.UP:
            self.share = 1.0 if self.state is State.UNKNOWN else LEAST_SHARE
        self.state, self.why, self.since = state, why, now
        self._refused = self._failed = self._silences = self._worked = 0
        self.silent = False
        self._judge()
        return True

    def _judge(self) -> None:
        works = self.state is State.UP or (self.state is State.TRIAL and not self._on_trial)
        usable = works and not self._drained
        if usable is not self.usable:
            self.usable = usable
            self.news.tell()

    def __repr__(self) -> str:
        return f"<Standing {self.state.value}: {self.why}>"
