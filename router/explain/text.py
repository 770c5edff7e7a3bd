"""An explanation for people: what would happen, why, and what each engine would have cost."""

from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap
from typing import Any

Tree = Mapping[str, Any]

WIDTH = 110


def text(tree: Tree) -> str:
    """The answer of `/explain` as lines and tables."""
    return "\n".join([*_outcome(tree), *_request(tree), *_judgements(tree), *_picks(tree), *_engines(tree)]) + "\n"


def _outcome(tree: Tree) -> Iterator[str]:
    outcome, mode = tree["outcome"], tree["mode"]
    over = " -> ".join(filter(None, (outcome.get("prefill"), outcome.get("decode"))))
    way = f"{outcome['route']} over {over}" if outcome["route"] else "nowhere"
    waits = f", for room in {outcome['waits_for']}" if outcome["waits_for"] else ""
    yield f"It would {outcome['would']}{waits}: {way}"
    yield f"reason: {outcome['reason']}; mode: {mode['of_this_request']}{_share(mode)}"


def _share(mode: Tree) -> str:
    return f" ({mode['mode']} for {mode['share']:.0%}, else {mode['otherwise']})" if mode["share"] < 1 else ""


def _request(tree: Tree) -> Iterator[str]:
    request = tree["request"]
    blocks = f"{request['blocks']} blocks of {request['tokens_per_block']} tokens" if request["blocks"] else "no blocks"
    yield f"prompt: {request['prompt_tokens']} tokens (estimated), {blocks}"
    if request["session"]:
        yield f"session: {request['session']}"
    if request["undisaggregatable"]:
        yield f"cannot be split over two engines: {request['undisaggregatable']}"


def _judgements(tree: Tree) -> Iterator[str]:
    """What the rule said, and by what facts; its thresholds once."""
    for judgement in tree["judgements"]:
        verdict = "disaggregate" if judgement["disaggregate"] else "one engine"
        yield f"rule: {verdict}, {judgement['reason']}"
        for name, facts in judgement.items():
            if isinstance(facts, Mapping):
                yield f"  {name}: {_facts(facts)}"
    if tree["judgements"]:
        yield from wrap(_facts(tree["rules"]), WIDTH, initial_indent="  limits: ", subsequent_indent="    ")


def _facts(facts: Tree) -> str:
    return ", ".join(f"{name} {_cell(value)}" for name, value in facts.items())


def _picks(tree: Tree) -> Iterator[str]:
    for pick in tree["picks"]:
        rows = [{"": "*" if row["engine"] == pick["picked"] else ""} | row for row in pick["candidates"]]
        yield from ("", f"{pick['pool']} by {pick['policy']}; * is picked, the lowest cost is best")
        yield from _table(rows)


ENGINE_COLUMNS = (
    "id", "role", "state", "usable", "room", "permits_taken", "requests", "tokens", "local_tokens", "cached_tokens",
)  # fmt: skip


def _engines(tree: Tree) -> Iterator[str]:
    yield from ("", "engines of the model")
    yield from _table([{name: engine[name] for name in ENGINE_COLUMNS} for engine in tree["engines"]])
    for state in ("quarantined", "cold"):
        if pairs := tree["pairs"][state]:
            yield f"{state} pairs: " + ", ".join(f"{pair['prefill']} -> {pair['decode']}" for pair in pairs)


def _table(rows: Sequence[Tree]) -> Iterator[str]:
    head = list(rows[0]) if rows else []
    lines = [head, *([_cell(row[name]) for name in head] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return " ".join(map(_cell, value)) if isinstance(value, list) else str(value)
