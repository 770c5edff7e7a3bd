import dataclasses

import pytest

from router.fleet.backend import Backend
from router.routing.route import Route, Shortage
from router.settings.engines import Role
from router.telemetry.events import RouteKind
from tests.support.builders import a_backend


def test_a_route_once_chosen_does_not_change() -> None:
    route = Route(RouteKind.LOCAL, a_backend(), None, "short_prompt")
    with pytest.raises(dataclasses.FrozenInstanceError):
        route.prefill = a_backend("prefill")  # type: ignore[misc]


def test_a_shortage_names_the_pool() -> None:
    assert Shortage(Role.DECODE, saturated=True, reason="decode_saturated").pool == "decode"


@pytest.mark.parametrize(
    ("prefill", "reason", "pools"),
    [
        (None, "short_prompt", (Role.DECODE,)),
        (None, "prefill_saturated", (Role.DECODE, Role.PREFILL)),
        (a_backend("prefill"), "novel_prompt", (Role.DECODE, Role.PREFILL)),
    ],
)
def test_which_pools_it_draws_on(prefill: Backend | None, reason: str, pools: tuple[Role, ...]) -> None:
    assert Route(RouteKind.LOCAL, a_backend(), prefill, reason).draws_on == pools


def test_what_is_cached_is_what_counts_where_the_prompt_is_computed() -> None:
    both = Route(RouteKind.DISAGGREGATED, a_backend(), a_backend("prefill"), "novel_prompt", 10, 20)
    alone = Route(RouteKind.LOCAL, a_backend(), None, "continuation", 10)
    assert (both.cached_tokens, alone.cached_tokens) == (20, 10)
