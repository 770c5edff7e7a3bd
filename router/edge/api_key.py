"""Does this client have the key? One key for all clients, which are not told apart by it."""

import secrets
from collections.abc import Iterable

from router.errors import WrongKey


class ApiKey:
    """The key that clients must send, as `authorization: Bearer KEY`."""

    __slots__ = ("_key",)

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def admit(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Let a client in; names of `headers` are in lower case. Raises `WrongKey`."""
        given = [value for name, value in headers if name == b"authorization"]
        if len(given) != 1:
            raise WrongKey
        scheme, _, key = given[0].partition(b" ")
        if scheme.lower() != b"bearer" or not secrets.compare_digest(key.strip(), self._key):
            raise WrongKey
