"""Do the documents say what the program does?"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry

from docs.settings_table import PAGE, written_into
from router.assembly import build
from router.cli import parser
from router.settings.tree import Settings
from tests.support.tree import ROOT, files

SIMULATOR = "sim"
"""The one command whose flags are left to its --help: many are those of the engine it stands for."""


def commands() -> dict[str, argparse.ArgumentParser]:
    """Every subcommand by name."""
    actions = parser()._actions
    return next(dict(action.choices) for action in actions if isinstance(action, argparse._SubParsersAction))


def actions(command: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """What a command and its own subcommands take."""
    for action in command._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from actions(below)


def test_the_table_of_settings_is_that_of_the_tree() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == written_into(page), "run: .venv/bin/python docs/settings_table.py"


def test_every_command_and_flag_is_documented() -> None:
    page = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    sections = {part.split(":", 1)[0]: part for part in page.split("\n## ")[1:]}
    assert sections.keys() == commands().keys()
    for name, command in commands().items():
        flags = [flag for action in actions(command) for flag in action.option_strings if flag.startswith("--")]
        missing = [flag for flag in flags if not re.search(rf"`{flag}[ `]", sections[name]) and flag != "--help"]
        assert name == SIMULATOR or missing == []


def test_every_command_teaches() -> None:
    for name, command in commands().items():
        assert name in (command.epilog or ""), f"{name} has no example"
        silent = [action.dest for action in actions(command) if not action.help]
        assert name == SIMULATOR or silent == []


def test_the_metrics_and_labels_are_those_of_the_program() -> None:
    page = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| (counter|gauge|histogram|summary) \| ([\w, -]+?) \|", page, re.MULTILINE)
    documented = {(f"pd_router_{name}", kind, labels) for name, kind, labels in rows}
    assert documented == set(_metrics(build(Settings()).registry))


def _metrics(registry: CollectorRegistry) -> Iterator[tuple[str, str, str]]:
    """Name, kind and labels of everything that is exported."""
    for collector in registry._collector_to_names:
        for family in collector.collect():
            labels: tuple[str, ...] = getattr(collector, "_labelnames", ()) or getattr(family, "_labelnames", ())
            name = f"{family.name}_total" if family.type == "counter" else family.name
            yield name, family.type, ", ".join(labels) or "-"


def test_links_lead_somewhere() -> None:
    assert [link for page in files() if page.suffix == ".md" for link in _dead_links(page)] == []


def _dead_links(page: Path) -> Iterator[str]:
    for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if "://" not in link and not (page.parent / link).exists():
            yield f"{page.relative_to(ROOT)}: {link}"
