"""Writes the table of settings into configuration.md from the settings tree: `python docs/settings_table.py`."""

import types
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from router.settings.tree import Settings

PAGE = Path(__file__).with_name("configuration.md")
BEGIN, END = "<!-- settings: begin -->\n", "<!-- settings: end -->\n"


def table() -> str:
    """Every section as a heading with its rows: key, values, default, meaning."""
    return "\n".join(line for name, field in Settings.model_fields.items() for line in _section(name, field))


def written_into(page: str) -> str:
    """The page with the table of today."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


def _section(name: str, field: FieldInfo) -> Iterator[str]:
    model = next(part for part in (field.annotation, *get_args(field.annotation)) if _is_section(part))
    prefix = name if model is field.annotation else f"{name}[]"
    yield f"### {name}\n"
    yield f"{field.description or model.__doc__}\n"
    yield "| key | values | default | meaning |"
    yield "|---|---|---|---|"
    yield from _rows(prefix, model)
    yield ""


def _rows(prefix: str, model: type[BaseModel]) -> Iterator[str]:
    """One row for each key, also of the branches of a branch; of branches that are alike, the first one's."""
    shown: dict[type[BaseModel], str] = {}
    for key, setting in model.model_fields.items():
        branch = next((p for p in (setting.annotation, *get_args(setting.annotation)) if _is_section(p)), None)
        if branch is None:
            yield f"| `{prefix}.{key}` | {_row(setting)} |"
        elif branch in shown:
            yield f"| `{prefix}.{key}` | as `{prefix}.{shown[branch]}` | - | {setting.description} |"
        else:
            shown[branch] = key
            yield from _rows(f"{prefix}.{key}", branch)


def _is_section(kind: Any) -> bool:  # noqa: ANN401 - an annotation may be anything
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _row(field: FieldInfo) -> str:
    return f"{_values(field)} | {_default(field)} | {field.description}"


def _values(field: FieldInfo) -> str:
    bounds = [_bound(item) for item in (*field.metadata, *_inner_metadata(field))]
    return ", ".join((_kind(field.annotation), *filter(None, bounds)))


def _inner_metadata(field: FieldInfo) -> tuple[Any, ...]:
    """Bounds inside an optional type, as in `Seconds | None`."""
    infos = [info for part in get_args(field.annotation) for info in getattr(part, "__metadata__", ())]
    return tuple(item for info in infos if isinstance(info, FieldInfo) for item in info.metadata)


def _bound(item: object) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    return ", ".join(f"{sign} {getattr(item, name):g}" for name, sign in signs.items() if hasattr(item, name))


def _kind(kind: Any) -> str:  # noqa: ANN401 - an annotation may be anything
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(f"`{value.value}`" for value in kind)
    if get_origin(kind) in (Union, types.UnionType):
        return _kind(next(part for part in get_args(kind) if part is not type(None)))
    if get_origin(kind) is tuple:
        return f"list of {_kind(get_args(kind)[0])}"
    if hasattr(kind, "__metadata__"):
        return _kind(kind.__origin__)
    return {str: "text", bool: "true, false", int: "integer", float: "number"}[kind]


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if field.default in (None, (), ""):
        return "-"
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


if __name__ == "__main__":
    PAGE.write_text(written_into(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
