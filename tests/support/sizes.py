"""How large is the code? `python -m tests.support.sizes` prints figures to compare with, not quotas to fill."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from tests.support.tree import ROOT, modules

MAX_FUNCTION_LINES = 80
LONG_MODULE_LINES = 400

BROAD = ("Exception", "BaseException")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Sizes:
    """What is measured of one tree of modules. `functions` and `modules` map a name to its length in lines."""

    functions: dict[str, int]
    modules: dict[str, int]
    broad_excepts: list[str]
    globals: list[str]

    @property
    def lines(self) -> int:
        """Lines of all modules."""
        return sum(self.modules.values())


def measure(root: Path) -> Sizes:
    """Read every module below `root`; places are given as path:line."""
    sizes = Sizes({}, {}, [], [])
    for path in modules(root):
        text = path.read_text(encoding="utf-8")
        name = str(path.relative_to(root.parent))
        sizes.modules[name] = len(text.splitlines())
        for node in ast.walk(ast.parse(text)):
            place = f"{name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, Function):
                sizes.functions[f"{place} {node.name}"] = function_lines(node)
            elif isinstance(node, ast.ExceptHandler) and _is_broad(node):
                sizes.broad_excepts.append(place)
            elif isinstance(node, ast.Global):
                sizes.globals.append(place)
    return sizes


def function_lines(function: Function) -> int:
    """Lines from `def` to the end, without decorators."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def _is_broad(handler: ast.ExceptHandler) -> bool:
    """Whether it swallows errors it cannot know; one that raises them again only tidies up."""
    if any(isinstance(node, ast.Raise) and node.exc is None for node in ast.walk(handler)):
        return False
    caught = handler.type
    kinds = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(kind is None or (isinstance(kind, ast.Name) and kind.id in BROAD) for kind in kinds)


def picture(source: Sizes, tests: Sizes) -> Iterator[str]:
    """The figures, a line each; in brackets those of well-kept projects of this kind."""
    lengths, functions = sorted(source.modules.values()), sorted(source.functions.values())
    long_modules = [name for name, lines in source.modules.items() if lines > LONG_MODULE_LINES]
    longest = max(source.functions, key=source.functions.__getitem__)
    p90 = quantiles(functions, n=10)[-1]
    yield f"modules    {len(lengths)}: median {median(lengths):.0f} lines, longest {lengths[-1]} (130; few over 400)"
    yield f"           over {LONG_MODULE_LINES} lines: {', '.join(long_modules) or 'none'}"
    yield f"functions  {len(functions)}: median {median(functions):.0f} lines, p90 {p90:.0f} (9; 35)"
    yield f"           longest: {longest}, {functions[-1]} lines (none over {MAX_FUNCTION_LINES})"
    yield f"smells     broad except: {len(source.broad_excepts)} (last resorts), global: {len(source.globals)} (none)"
    yield f"tests      {tests.lines} lines for {source.lines}: {tests.lines / source.lines:.2f} (at least 1)"


if __name__ == "__main__":
    print("\n".join(picture(measure(ROOT / "router"), measure(ROOT / "tests"))))
