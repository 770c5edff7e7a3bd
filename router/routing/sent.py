"""What will the engines of a route hold, once a call was sent there? Told before, and corrected by what came of it."""

from types import TracebackType
from typing import Self

from router.call import Call
from router.errors import Outcome
from router.routing.prefix.prefixes import Prefixes
from router.routing.route import Route


class Sent:
    """One call under way on the engines of a route: a context manager around the exchange.

    The prefill engine holds the prompt once its leg is over, the decode engine once its answer has begun; what was not
    heard of until the block ends is taken back. Without `prefixes` nothing is written down.
    """

    def __init__(self, prefixes: Prefixes | None, call: Call, route: Route) -> None:
        self._prefixes = prefixes
        self._call = call
        self._answer_tokens: int | None = None
        self._prefill = prefixes.expect(call, route.prefill) if prefixes and route.prefill else None
        self._decode = prefixes.expect(call, route.decode) if prefixes else None

    def prefill_over(self, outcome: Outcome) -> None:
        """The prefill engine has computed the prompt, or has failed to."""
        if self._prefill is not None and outcome is Outcome.OK:
            self._prefill.confirm()

    def answered(self, tokens: int) -> None:
        """The answer has begun, and has so many tokens by now."""
        self._answer_tokens = tokens

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._prefill is not None:
            self._prefill.withdraw()
        if self._decode is None or self._prefixes is None:
            return
        if self._answer_tokens is None:
            self._decode.withdraw()
        else:
            self._decode.confirm(self._prefixes.tokens_after_blocks(self._call, self._answer_tokens))
