"""Who may change things on the operations listener, and ask about requests? People and tools, but no page in somebody's
browser.

With a token configured, whoever has it. Without one, whoever reaches the loopback address, by that name: a page that a
browser has open elsewhere names another host (DNS rebinding) or another origin (a forged request).
"""

import ipaddress
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from router.errors import NotAllowed

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Operators:
    """The rule of one listener, by the address it listens on and its token."""

    host: str
    token: str | None = field(default=None, repr=False)

    def admit(self, headers: Mapping[str, str]) -> None:
        """Let a request do so; `headers` in lower case. Raises `NotAllowed`."""
        origin, host = headers.get("origin"), headers.get("host", "")
        if origin is not None and urlsplit(origin).netloc != host:
            raise NotAllowed("this cannot be asked for by another site's page")
        if self.token is not None:
            given = headers.get("authorization", "").removeprefix("Bearer ")
            if not secrets.compare_digest(given.encode(), self.token.encode()):
                raise NotAllowed("this needs the token, as authorization: Bearer TOKEN", status=401)
        elif not _is_loopback(self.host):
            raise NotAllowed("set ops.token_env to allow this on a listener that is not on loopback")
        elif urlsplit(f"//{host}").hostname not in LOCAL_NAMES:
            raise NotAllowed("this must be asked for under a loopback address")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
