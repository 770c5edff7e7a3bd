import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.explain.ask import Unanswered, add_arguments, api_of, ask, run
from tests.unit.explain.test_explainer import Site

BODY = b'{"model": "m", "messages": []}'


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)


def answering(answer: Callable[[httpx.Request], httpx.Response] | httpx.Response) -> httpx.MockTransport:
    return httpx.MockTransport(answer if callable(answer) else lambda _: answer)


def test_the_body_goes_as_it_is_and_what_else_is_said_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"outcome": {}})

    monkeypatch.setenv("OPS_TOKEN", "secret")
    args = parsed("x", "--ops", "http://ops:1", "--session", "s", "--mode", "local", "--token-env", "OPS_TOKEN")
    assert ask(args, BODY, answering(answer)) == {"outcome": {}}
    (request,) = seen
    assert (request.method, str(request.url)) == ("POST", "http://ops:1/explain?api=chat&mode=local")
    assert (request.content, request.headers["x-session-id"]) == (BODY, "s")
    assert request.headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("body", "api"),
    [
        (BODY, "chat"),
        (b'{"prompt": "x"}', "completions"),
        (b'{"prompt": "x", "messages": []}', "chat"),
        (b"[1", "chat"),
        (b'["prompt"]', "chat"),
    ],
)
def test_the_api_shows_in_the_body(body: bytes, api: str) -> None:
    assert api_of(body) == api


REFUSED = httpx.Response(404, json={"error": {"message": "the model 'm' does not exist here"}})


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (REFUSED, "404: the model 'm' does not exist here"),
        (httpx.Response(200, text="<html>"), "no operations listener"),
        (httpx.Response(500, json={}), "no operations listener"),
        (httpx.Response(500, json=[]), "no operations listener"),
    ],
)
def test_an_answer_that_is_none(answer: httpx.Response, why: str) -> None:
    with pytest.raises(Unanswered, match=why):
        ask(parsed("x"), BODY, answering(answer))


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://[", "ftp://x"])
def test_nobody_there(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "body.json").write_bytes(BODY)
    assert run(parsed(str(tmp_path / "body.json"), "--ops", url)) == 1
    assert capsys.readouterr().err.startswith(f"pd-router: {url} does not answer: ")


def test_what_cannot_be_read_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(parsed("/nowhere/body.json")) == 2
    assert capsys.readouterr().err == "pd-router: /nowhere/body.json: cannot be read: No such file or directory\n"


def test_a_token_that_is_not_set_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "body.json").write_bytes(BODY)
    assert run(parsed(str(tmp_path / "body.json"), "--token-env", "NO_SUCH_TOKEN")) == 2
    assert "NO_SUCH_TOKEN is not set" in capsys.readouterr().err


def test_so_is_one_that_no_header_can_carry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "body.json").write_bytes(BODY)
    monkeypatch.setenv("OPS_TOKEN", "s3cret\n")
    assert run(parsed(str(tmp_path / "body.json"), "--token-env", "OPS_TOKEN")) == 2
    told = capsys.readouterr().err
    assert ("OPS_TOKEN must hold printable ASCII" in told, "s3cret" in told) == (True, False)


@pytest.mark.parametrize("as_json", [True, False])
def test_it_is_told_in_words_or_as_json(
    as_json: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "body.json").write_bytes(BODY)
    tree: dict[str, Any] = Site().explain()
    monkeypatch.setattr("router.explain.ask.ask", lambda *_: tree)
    assert run(parsed(str(tmp_path / "body.json"), *(["--json"] if as_json else []))) == 0
    out = capsys.readouterr().out
    assert json.loads(out) == tree if as_json else out.startswith("It would be sent: ")
