"""What was found: as text for people, as a tree for programs."""

from collections.abc import Iterator, Sequence
from typing import Any

from router.doctor.examine import EngineFinding, Findings, PairFinding, Verdict
from router.settings.engines import Role

INDENT = "    "

ENGINE_HEAD = ("engine", "role", "state", "version", "model", "lease as set")
PAIR_HEAD = ("prefill", "decode", "result", "prefill took", "hand-over took", "prompt tokens")


def text(findings: Findings) -> str:
    """Two tables, with a line on what is wrong and one on what to do below each row that needs them, and a sum.

    What is wrong with none of the rows is told before the sum.
    """
    lines = [*_table([(_engine_row(e), e.problem, e.advice) for e in findings.engines], ENGINE_HEAD)]
    if findings.pairs:
        lines += ["", *_table([(_pair_row(p), p.problem, p.advice) for p in findings.pairs], PAIR_HEAD)]
    if findings.problems:
        lines += ["", *findings.problems]
    return "\n".join([*lines, "", _sum(findings)])


def tree(findings: Findings) -> dict[str, Any]:
    """The same for programs; times in milliseconds."""
    return {
        "good": findings.good,
        "engines": [_engine_tree(finding) for finding in findings.engines],
        "pairs": [_pair_tree(finding) for finding in findings.pairs],
        "problems": list(findings.problems),
    }


def _sum(findings: Findings) -> str:
    counts = {verdict: sum(pair.verdict is verdict for pair in findings.pairs) for verdict in Verdict}
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    usable = sum(finding.backend.standing.usable for finding in findings.engines)
    engines = f"engines: {usable} of {len(findings.engines)} up"
    return f"{engines}; pairs: {told or 'none'}; {'all is well' if findings.good else 'something is to be done'}"


def _engine_row(finding: EngineFinding) -> tuple[str, ...]:
    backend = finding.backend
    models = ", ".join(f"{name} ({card.max_model_len or '?'})" for name, card in backend.models.items())
    lease = f"{backend.settings.kv_lease_s:g} s" if backend.role is Role.PREFILL else "-"
    version = backend.identity.version or "?"
    return backend.id, backend.role.value, backend.standing.state.value, version, models or "?", lease


def _pair_row(finding: PairFinding) -> tuple[str, ...]:
    times, tokens = finding.rehearsed, finding.tokens
    took = (f"{times.prefill_s * 1000:.0f} ms", f"{times.handoff_s * 1000:.0f} ms") if times else ("-", "-")
    told = f"{tokens.pulled} pulled, {tokens.computed} computed" if tokens else "-"
    return finding.prefill.id, finding.decode.id, finding.verdict.value, *took, told


def _table(rows: Sequence[tuple[tuple[str, ...], str | None, str | None]], head: tuple[str, ...]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(head, *(cells for cells, _, _ in rows), strict=True)]

    def line(cells: tuple[str, ...]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    yield line(head)
    for cells, problem, advice in rows:
        yield line(cells)
        if problem:
            yield f"{INDENT}{problem}"
        if advice:
            yield f"{INDENT}next: {advice}"


def _engine_tree(finding: EngineFinding) -> dict[str, Any]:
    backend = finding.backend
    return {
        "url": backend.url,
        "role": backend.role.value,
        "state": backend.standing.state.value,
        "version": backend.identity.version,
        "group": backend.group,
        "models": {name: card.max_model_len for name, card in backend.models.items()},
        "kv_lease_s": backend.settings.kv_lease_s if backend.role is Role.PREFILL else None,
        "problem": finding.problem,
        "advice": finding.advice,
    }


def _pair_tree(finding: PairFinding) -> dict[str, Any]:
    times, tokens = finding.rehearsed, finding.tokens
    return {
        "prefill": finding.prefill.url,
        "decode": finding.decode.url,
        "verdict": finding.verdict.name.lower(),
        "good": finding.good,
        "prefill_ms": round(times.prefill_s * 1000, 3) if times else None,
        "handoff_ms": round(times.handoff_s * 1000, 3) if times else None,
        "prompt_tokens": times.prompt_tokens if times else None,
        "pulled_tokens": tokens.pulled if tokens else None,
        "computed_tokens": tokens.computed if tokens else None,
        "problem": finding.problem,
        "advice": finding.advice,
    }
