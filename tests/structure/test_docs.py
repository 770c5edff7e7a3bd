"""Do the documents say what the program does?"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from docs.settings_table import PAGE, written_into
from router.app import build
from router.cli import parser
from router.settings import Settings
from tests.support.tree import ROOT, files

SIMULATOR_HELP = "sim"
"""The one command whose flags are left to its --help."""


def commands() -> dict[str, argparse.ArgumentParser]:
    """Every subcommand by name."""
    actions = parser()._actions
    return next(dict(action.choices) for action in actions if isinstance(action, argparse._SubParsersAction))


def test_the_table_of_settings_is_that_of_the_tree() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == written_into(page), "run: .venv/bin/python docs/settings_table.py"


def test_every_command_and_flag_is_documented() -> None:
    page = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    sections = {part.split(":", 1)[0]: part for part in page.split("\n## ")[1:]}
    assert sections.keys() == commands().keys()
    for name, command in commands().items():
        flags = [flag for action in command._actions for flag in action.option_strings if flag.startswith("--")]
        missing = [flag for flag in flags if not re.search(rf"`{flag}[ `]", sections[name]) and flag != "--help"]
        assert name == SIMULATOR_HELP or missing == []


def test_every_command_teaches() -> None:
    for name, command in commands().items():
        assert name in (command.epilog or ""), f"{name} has no example"
        assert all(action.help for action in command._actions), f"{name} has a flag without help"


def test_every_metric_and_label_is_documented() -> None:
    """A metric has one row: its name without the prefix, and its labels."""
    rows = [line for line in (ROOT / "docs/metrics.md").read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    families = list(build(Settings()).registry.collect())
    assert len(families) > 10
    for family in families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        row = next((row for row in rows if re.search(rf"\b{name.removeprefix('pd_router_')}\b", row)), "")
        missing = [label for label in getattr(family, "_labelnames", ()) if label not in row]
        assert (row != "", missing) == (True, []), f"docs/metrics.md lacks {name} or its labels {missing}"


def test_links_lead_somewhere() -> None:
    assert [link for page in files() if page.suffix == ".md" for link in _dead_links(page)] == []


def _dead_links(page: Path) -> Iterator[str]:
    for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if "://" not in link and not (page.parent / link).exists():
            yield f"{page.relative_to(ROOT)}: {link}"
