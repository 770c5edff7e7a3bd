"""Should traffic come here? What a load balancer asks before it sends any."""

from router.fleet.fleet import Fleet


class Readiness:
    """Ready while not draining and at least one route is usable."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.draining = False

    def reasons_against(self) -> list[str]:
        """Why not to send requests here; empty when ready."""
        reasons = []
        if self.draining:
            reasons.append("draining")
        if not self._fleet.ready:
            reasons.append("no usable engine that can answer")
        return reasons

    def notes(self) -> list[str]:
        """What does not keep requests away but should not last."""
        instead = "decode computes prompts, or they are answered with 503"
        if self._fleet.without_prefill:
            return [f"no usable prefill engine: {instead}"]
        if self._fleet.apart:
            return [f"no prefill engine is of the group (version and model) of a decode engine: {instead}"]
        return []
