"""Is the tree in shape: tests mirror modules, functions are short, nothing is bound to one machine?"""

import ast
import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from tests.support.sizes import MAX_FUNCTION_LINES, Sizes, measure, picture
from tests.support.tree import ROOT, SOURCE, files, modules

PROVEN_ELSEWHERE = {
    "router/demo.py": "tests/integration/test_commands.py",  # fleet, gateway and client in one process
}
"""Modules whose test needs more than a unit test, and where that test is."""

LAST_RESORTS = {"router/gateway.py", "router/supervision.py", "router/telemetry/logs.py"}
"""Where also what nobody foresaw is caught, and logged: requests have an answer, background work has a next turn, other
lines than the one that could not be made are written."""

ONE_MACHINE = re.compile(r"/work/|/root/|/home/[a-z]")
INDEX_HOSTS = re.compile(
    r"pypi\.(org|python)|pythonhosted\.org|npmjs\.(org|com)|(?<=[/.])pytorch\.org|crates\.io", re.IGNORECASE
)


def test_every_module_has_its_test() -> None:
    tests = {path: _test_of(path) for path in modules() if path.name not in ("__init__.py", "__main__.py")}
    missing = [str(path.relative_to(ROOT)) for path, test in tests.items() if not test.is_file()]
    assert missing == []


def _test_of(module: Path) -> Path:
    mirror = ROOT / "tests/unit" / module.relative_to(SOURCE).with_name(f"test_{module.name}")
    elsewhere = PROVEN_ELSEWHERE.get(str(module.relative_to(ROOT)))
    return ROOT / elsewhere if elsewhere else mirror


def test_every_unit_test_has_its_module() -> None:
    tests = [path for path in modules(ROOT / "tests/unit") if path.name.startswith("test_")]
    orphans = [str(path.relative_to(ROOT)) for path in tests if not _module_of(path).is_file()]
    assert orphans == []


def _module_of(test: Path) -> Path:
    return SOURCE / test.relative_to(ROOT / "tests/unit").with_name(test.name.removeprefix("test_"))


def test_every_module_says_what_it_answers() -> None:
    silent = [str(path.relative_to(ROOT)) for path in modules() if not _docstring(path)]
    assert silent == []


def _docstring(path: Path) -> str | None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return ast.get_docstring(tree) if tree.body else "empty"


def test_functions_are_short_and_nothing_is_global() -> None:
    source = measure(SOURCE)
    assert {name: lines for name, lines in source.functions.items() if lines > MAX_FUNCTION_LINES} == {}
    assert {place.partition(":")[0] for place in source.broad_excepts} == LAST_RESORTS
    assert source.globals == []
    assert len(list(picture(source, source))) == 6


def test_what_the_measure_finds(tmp_path: Path) -> None:
    lines = [
        "def f():",
        "    global x",
        "    try:",
        "        x = 1",
        "    except (ValueError, Exception):",
        "        x = 2",
    ]
    (tmp_path / "bad.py").write_text("\n".join(lines) + "\n")
    sizes = measure(tmp_path)
    name = f"{tmp_path.name}/bad.py"
    assert sizes == Sizes({f"{name}:1 f": 6}, {name: 6}, [f"{name}:5"], [f"{name}:2"])


def test_nothing_is_bound_to_one_machine_or_index() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in files()
        if path != Path(__file__)
        for pattern in (ONE_MACHINE, INDEX_HOSTS)
        for match in pattern.finditer(path.read_text(encoding="utf-8", errors="replace"))
    ]
    assert found == []


def test_locks_pin_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = ("", "-dev", "-mutation", "-console")
    runtime, dev, mutation, console = (_pins(ROOT / f"requirements{name}.lock") for name in names)
    groups, extras = project["dependency-groups"], project["project"]["optional-dependencies"]
    asked = [*project["project"]["dependencies"], *extras["dns"], *extras["kv-events"], *groups["build"]]
    for lock, requirements in (
        (runtime, asked),
        (dev, [*asked, *extras["dev"]]),
        (mutation, groups["mutation"]),
        (console, groups["console"]),
    ):
        for requirement in map(Requirement, requirements):
            assert requirement.specifier.contains(lock.get(requirement.name.lower(), "0")), f"make lock: {requirement}"
    assert runtime.items() <= dev.items() <= mutation.items() & console.items()


def _pins(lock: Path) -> dict[str, str]:
    text = lock.read_text()
    pins = dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", text, re.MULTILINE))
    assert len(pins) == text.count("    # via"), "every line of a lock is a pin with its reason"
    assert text.count("--hash=sha256:") >= len(pins)
    return pins
