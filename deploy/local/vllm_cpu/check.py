"""Does a pair hand its KV cache over: the same greedy text as a plain request, and no prompt token computed twice?

The plain request is sent after the pair's, so that the decode engine never saw the prompt before.
"""

import json
import random
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import asdict, dataclass
from typing import Any

from vllm_cpu import counters
from vllm_cpu.console import Failure
from vllm_cpu.counters import Counters

WORDS = ("river", "stone", "market", "garden", "winter", "letter", "engine", "silver", "bridge", "paper", "cloud")
PROMPT_WORDS = (3, 20, 60, 200, 400)
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
PUBLISHING_S = 2.0


@dataclass(frozen=True)
class Finding:
    """What one prompt showed."""

    path: str
    prompt_tokens: int
    same_text: bool
    decode: Counters
    seconds: float

    @property
    def good(self) -> bool:
        """Equal text, and every prompt token pulled or cached."""
        handed_over = self.decode.pulled_tokens + self.decode.cached_tokens == self.prompt_tokens
        return self.same_text and handed_over and not self.decode.computed_tokens and not self.decode.failed_transfers


def run(prefill: str, decode: str, reference: str) -> bool:
    """Checks prompts of several lengths on both OpenAI paths, a line of JSON for each; whether all are good."""
    model = _post_or_get(f"{prefill}/v1/models")["data"][0]["id"]
    findings = []
    for length in PROMPT_WORDS:
        for path in (CHAT, COMPLETIONS):
            findings.append(_compare(path, _body(model, path, length), (prefill, decode, reference)))
            print(json.dumps(asdict(findings[-1]) | {"good": findings[-1].good}), flush=True)
    return all(finding.good for finding in findings)


def _compare(path: str, body: dict[str, Any], urls: tuple[str, str, str]) -> Finding:
    prefill, decode, reference = (url + path for url in urls)
    before, begin = counters.read(urls[1]), time.monotonic()
    first = {**body, "max_tokens": 1, "kv_transfer_params": {"do_remote_decode": True}}
    handoff = _post_or_get(prefill, first)["kv_transfer_params"]
    answer = _post_or_get(decode, {**body, "kv_transfer_params": handoff})
    seconds, prompt_tokens = time.monotonic() - begin, answer["usage"]["prompt_tokens"]
    plain = _post_or_get(reference, body)
    return Finding(
        path=path,
        prompt_tokens=prompt_tokens,
        same_text=_text(answer) == _text(plain),
        decode=_published(urls[1], before, prompt_tokens),
        seconds=round(seconds, 3),
    )


def _published(url: str, before: Counters, prompt_tokens: int) -> Counters:
    """What the counters grew by, once they account for the prompt."""
    deadline = time.monotonic() + PUBLISHING_S
    while (grown := counters.read(url) - before).prompt_tokens < prompt_tokens and time.monotonic() < deadline:
        time.sleep(0.1)
    return grown


def _body(model: str, path: str, words: int) -> dict[str, Any]:
    """A request with a prompt that no cache has seen."""
    prompt = " ".join(random.choice(WORDS) for _ in range(words)) + f". Tell me more about {uuid.uuid4()}."
    asked = {"messages": [{"role": "user", "content": prompt}]} if path == CHAT else {"prompt": prompt}
    return {"model": model, "max_tokens": 32, "temperature": 0, "ignore_eos": True, **asked}


def _text(answer: dict[str, Any]) -> str:
    choice = answer["choices"][0]
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


def _post_or_get(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            parsed: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        raise Failure(f"{url}: HTTP {error.code}: {error.read().decode(errors='replace')[:500]}") from None
    except OSError as error:
        raise Failure(f"{url}: {error}") from None
    return parsed
