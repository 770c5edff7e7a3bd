import httptools
import pytest

from router.edge.targets import REMEMBERED, Target, target_of


@pytest.mark.parametrize(
    ("url", "target"),
    [
        (b"/v1/models", Target("/v1/models", b"/v1/models", b"")),
        (b"/v1/models?a=1&b", Target("/v1/models", b"/v1/models", b"a=1&b")),
        (b"/v1/models?", Target("/v1/models", b"/v1/models", b"")),
        (b"/v1%2Fmodels/%C3%A4", Target("/v1/models/ä", b"/v1%2Fmodels/%C3%A4", b"")),
        (b"http://gateway/v1/models?a", Target("/v1/models", b"/v1/models", b"a")),
    ],
)
def test_a_target_has_a_path_and_a_query(url: bytes, target: Target) -> None:
    assert target_of(url) == target


@pytest.mark.parametrize("url", [b"/\xc3\xa4", b"not a target"])
def test_a_bad_target_is_not_taken_apart(url: bytes) -> None:
    for _ in range(2):
        with pytest.raises((httptools.HttpParserInvalidURLError, UnicodeDecodeError)):
            target_of(url)


def test_few_targets_are_remembered() -> None:
    for number in range(2 * REMEMBERED):
        target_of(b"/%d" % number)
    assert target_of.cache_info().currsize == REMEMBERED
