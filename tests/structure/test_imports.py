"""Do imports go one way, from the commands down to the nouns?"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tree import ROOT, modules

LAYERS = (
    {"__main__"},
    {"cli"},
    {"demo", "doctor"},
    {"app"},
    {"assembly"},
    {"edge"},
    {"gateway", "explain"},
    {"retries", "telemetry", "console"},
    {"scaling"},
    {"admission", "routing", "exchange"},
    {"fleet"},
    {"engines"},
    {"nouns"},
    {"arguments"},
)
"""A room imports itself and rooms of lower layers; rooms of one layer know nothing of each other."""

NOUNS = {"call", "deadline", "errors", "json_bounds", "settings", "supervision", "telemetry.events", "usage"}
"""What every room shares; for imports they are one room."""

TOOLS = {
    "sim": {"arguments"},
    "bench": {"sim", "routing", "fleet", "engines", "admission", "scaling", "telemetry", "nouns", "arguments"},
}
"""Rooms beside the gateway, and what each may import beside itself."""

TOOL_USERS = {"cli": {"sim", "bench"}, "demo": {"sim"}}


def room(module: str) -> str:
    """`router.exchange.pool` is in the room `exchange`."""
    parts = module.removeprefix("router.").split(".")
    return "nouns" if parts[0] in NOUNS or ".".join(parts[:2]) in NOUNS else parts[0]


def may_import(importer: str, imported: str) -> bool:
    """Whether a room may import from another."""
    if importer == imported or imported in TOOL_USERS.get(importer, ()):
        return True
    if importer in TOOLS:
        return imported in TOOLS[importer]
    layer = {name: depth for depth, names in enumerate(LAYERS) for name in names}
    return imported in layer and layer[importer] < layer[imported]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and module of every import from the package, also those inside functions and for types only."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names if name.name.startswith("router."))
        elif isinstance(node, ast.ImportFrom) and node.module == "router":
            yield from ((node.lineno, f"router.{name.name}") for name in node.names if not name.name.startswith("__"))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("router."):
            whole = [f"{node.module}.{name.name}" for name in node.names]
            yield from ((node.lineno, name if name.removeprefix("router.") in NOUNS else node.module) for name in whole)


def module_name(path: Path) -> str:
    """`router/fleet/__init__.py` is `router.fleet`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_every_import_goes_down() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} {module} is not below it"
        for path in modules()
        if (here := module_name(path)) != "router"
        for line, module in imports(path)
        if not may_import(room(here), room(module))
    ]
    assert wrong == []


def test_every_room_has_a_place() -> None:
    known = {name for names in LAYERS for name in names} | set(TOOLS)
    assert {room(name) for path in modules() if (name := module_name(path)) != "router"} <= known


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("router.cli", "router.app", True),
        ("router.edge.ops", "router.gateway", True),
        ("router.gateway", "router.edge.ops", False),
        ("router.routing.choose", "router.exchange.pool", False),
        ("router.fleet.backend", "router.engines.dialect", True),
        ("router.engines.vllm", "router.fleet.backend", False),
        ("router.exchange.relay", "router.telemetry.events", True),
        ("router.exchange.relay", "router.telemetry.metrics", False),
        ("router.telemetry.metrics", "router.admission.permits", True),
        ("router.sim.engine", "router.errors", False),
        ("router.bench.load", "router.gateway", False),
        ("router.assembly", "router.sim.fleet", False),
        ("router.demo", "router.sim.fleet", True),
    ],
)
def test_the_rule_itself(importer: str, imported: str, allowed: bool) -> None:
    assert may_import(room(importer), room(imported)) is allowed


def test_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "import router.app\nfrom router import __version__, demo\nfrom router.telemetry import events, metrics\n"
        "def f():\n    from router.sim.fleet import SimFleet\n"
    )
    assert [module for _, module in imports(path)] == [
        "router.app",
        "router.demo",
        "router.telemetry.events",
        "router.telemetry",
        "router.sim.fleet",
    ]
