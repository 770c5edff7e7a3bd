"""What is there already of a call's prompt, engine by engine? The one thing of this room that others talk to."""

import secrets
from collections.abc import Callable, Mapping

from router.call import Blocks, Call
from router.fleet.backend import Backend
from router.routing.prefix.blocks import blocks
from router.routing.prefix.index import Expectation, PrefixIndex
from router.routing.prefix.sizes import TokenSizes
from router.routing.prefix.truth import Truth
from router.settings.routing import Routing

Salt = Callable[[Call], bytes]


def no_salt(call: Call) -> bytes:
    """All tenants share what engines hold."""
    return b""


class Prefixes:
    """The index, asked and told by call. `salt_of` gives what keeps a tenant's prefixes apart.

    Hashes begin with a secret of this process: whoever knew how they begin could make a prompt whose hashes repeat, and
    the index takes the blocks of a prompt for different ones.
    """

    def __init__(self, index: PrefixIndex, sizes: TokenSizes | None = None, salt_of: Salt = no_salt) -> None:
        self.index = index
        self.truth = Truth(index)
        self.sizes = sizes or TokenSizes()
        self._salt_of = salt_of
        self._secret = secrets.token_bytes(16)
        self._asked: Call | None = None
        self._asked_version = -1
        self._held: Mapping[Backend, float] = {}

    def blocks(self, call: Call) -> Blocks:
        """The blocks of a call's prompt, computed when they are first asked for: its body must still be there then."""
        if call.blocks is None:
            call.blocks = blocks(call, call.prompt_tokens, self._secret + self._salt_of(call))
        return call.blocks

    def held(self, call: Call) -> Mapping[Backend, float]:
        """Tokens of the prompt by engine, for those that hold any. One lookup serves all that a choice asks."""
        version = self.index.version
        if call is not self._asked or version != self._asked_version:
            self._held = self.index.held(self.blocks(call))
            self._asked, self._asked_version = call, version
        return self._held

    def cached_tokens(self, call: Call, engine: Backend) -> int:
        """Tokens of the prompt that one engine holds."""
        held, tokens = self.held(call).get(engine, 0), call.prompt_tokens
        return int(held) if held < tokens else tokens

    def crowd(self, call: Call, engine: Backend) -> int:
        """Prompts under way on an engine that begin with all that it holds of this one."""
        return self.index.crowd(engine, self.blocks(call))

    def expect(self, call: Call, engine: Backend) -> Expectation:
        """A call is being sent to an engine, which will hold its prompt."""
        blocks = self.blocks(call)
        self.truth.sent(call.trace.request_id, engine, blocks)
        return self.index.expect(engine, blocks)

    def forget(self, engine: Backend) -> None:
        """An engine has started anew, or is gone: it holds nothing."""
        self.truth.forget(engine)
        self.index.drop(engine)

    def tokens_after_blocks(self, call: Call, answer_tokens: int) -> float:
        """What an engine that answered holds after the blocks: the rest of the prompt, and the answer."""
        made = self.blocks(call)
        return max(0.0, call.prompt_tokens - len(made.hashes) * made.tokens_each) + answer_tokens


def prefixes_for(rules: Routing) -> Prefixes | None:
    """What the settings ask for: nothing is hashed and kept unless a pool's policy looks at it."""
    if "prefix_aware" not in (rules.prefill_policy, rules.decode_policy):
        return None
    return Prefixes(PrefixIndex(rules.engine_cache_tokens, rules.max_index_blocks))
