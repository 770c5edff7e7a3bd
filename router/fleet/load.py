"""How much has an engine to do: what this gateway sent it, and what others did."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Load:
    """Requests in flight and their prompt tokens (estimated); on a prefill engine, those that it has to compute.

    `ever` counts all requests that there have been.

    `local_tokens` are those that the engine computes beside its streams, until their answers begin.

    `others_requests` and `others_kv_tokens` are what the engine says it has beyond that, a scrape late: what other
    gateways sent it. Never negative, as what it has not heard of yet, or has finished already, is this gateway's own;
    0 while the engine's own count is not known.
    """

    requests: int = 0
    tokens: int = 0
    local_tokens: int = 0
    ever: int = field(default=0, compare=False)
    others_requests: int = 0
    others_kv_tokens: int = 0

    def note_others(self, requests: int = 0, kv_tokens: int = 0) -> None:
        """What others have there now; by default nothing that is known."""
        self.others_requests, self.others_kv_tokens = max(0, requests), max(0, kv_tokens) if requests > 0 else 0
