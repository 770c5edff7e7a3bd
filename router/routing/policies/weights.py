"""What does a policy go by? A cost for each candidate, and what it is made of, so that a choice can be explained."""

from collections.abc import Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

Cost = TypeVar("Cost", float, tuple[float, float])


class Weights(NamedTuple, Generic[Cost]):
    """For each candidate what it would cost, and by name the `parts` that the policy made that of.

    The cheapest is the best; what costs infinitely much is out of the question.
    """

    costs: Sequence[Cost]
    parts: Mapping[str, Sequence[object]]

    def of(self, number: int) -> Mapping[str, object]:
        """Cost and parts of one candidate, by its place among them."""
        return {"cost": self.costs[number]} | {name: values[number] for name, values in self.parts.items()}
