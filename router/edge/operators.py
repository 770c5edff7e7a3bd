"""Who may change things on the operations listener, and ask about requests? People and tools, but no page in somebody's
browser.

With a token configured, whoever has it. Without one, whoever reaches the loopback address, by that name: a page that a
browser has open elsewhere names another host (DNS rebinding) or another origin (a forged request). Of what can be read,
only the former matters: a browser keeps other answers from a page of another origin.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from router.errors import NotAllowed
from router.settings.addresses import is_loopback

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Operators:
    """The rule of one listener, by the address it listens on and its token."""

    host: str
    token: str | None = field(default=None, repr=False)

    @property
    def terms(self) -> Literal["token", "loopback", "closed"]:
        """What changes need: the token, to be asked for on loopback, or more than can be given."""
        if self.token is not None:
            return "token"
        return "loopback" if is_loopback(self.host) else "closed"

    def admit(self, headers: Mapping[str, str]) -> None:
        """Let a request do so; `headers` in lower case. Raises `NotAllowed`."""
        origin, host = headers.get("origin"), headers.get("host", "")
        if origin is not None and _parts(origin).netloc != host:
            raise NotAllowed("this cannot be asked for by another site's page")
        if self.token is not None:
            given = headers.get("authorization", "").removeprefix("Bearer ")
            if not secrets.compare_digest(given.encode(), self.token.encode()):
                raise NotAllowed("this needs the token, as authorization: Bearer TOKEN", status=401)
        elif not is_loopback(self.host):
            raise NotAllowed("set ops.token_env to allow this on a listener that is not on loopback")
        self.admit_name(headers)

    def admit_name(self, headers: Mapping[str, str]) -> None:
        """Let a request read something, by the name under which it asks. Raises `NotAllowed`."""
        if self.terms == "loopback" and _parts(f"//{headers.get('host', '')}").hostname not in LOCAL_NAMES:
            raise NotAllowed("this must be asked for under a loopback address")


def _parts(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise NotAllowed("host and origin must be well-formed") from None
