from argparse import ArgumentTypeError
from collections.abc import Callable

import pytest

from router.arguments import count, count_or_0, port, positive


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (positive, "0.5", 0.5),
        (positive, "1e3", 1000.0),
        (count, "1", 1),
        (count, "32", 32),
        (count_or_0, "0", 0),
        (count_or_0, "7", 7),
        (port, "0", 0),
        (port, "65535", 65535),
    ],
)
def test_numbers_that_make_sense(kind: Callable[[str], float], text: str, value: float) -> None:
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "texts", "said"),
    [
        (positive, ["0", "-1", "x", "", "inf", "nan"], "must be a positive number"),
        (count, ["0", "-1", "x", "", "1.5", "\u00b2"], "must be a positive integer"),
        (count_or_0, ["-1", "x", "0.0"], "must be 0 or a positive integer"),
        (port, ["-1", "65536", "http", "80.0"], "must be a port, 0 to 65535"),
    ],
)
def test_others_are_refused(kind: Callable[[str], float], texts: list[str], said: str) -> None:
    for text in texts:
        with pytest.raises(ArgumentTypeError, match=said):
            kind(text)
