import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from router import settings
from router.settings.loading import load
from router.settings.tree import Settings, effective
from tests.support.settings import DECODE, write


def test_the_tree_is_frozen() -> None:
    for branch, name in ((Settings(), "listen"), (Settings().listen, "port")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(branch, name, 1)


def test_what_is_effective_can_be_a_file_again(tmp_path: Path) -> None:
    backends = [{**DECODE, "models": ["m"], "kv_hosts": ["10.1.0.1"]}]
    loaded = load(flags={"backends": backends, "handoff": {"handoff_max_age_s": 3}}, environ={})
    assert load(write(tmp_path, effective(loaded)), environ={}) == loaded


def test_every_section_is_in_the_tree() -> None:
    reached: set[type[BaseModel]] = set()
    new: set[type[BaseModel]] = {Settings}
    while new:
        reached |= new
        fields = [field for model in new for field in model.model_fields.values()]
        new = {model for field in fields for model in _models(field.annotation)} - reached
    inherited = {base for model in reached for base in model.__mro__}
    sections = [kind for module in _modules() for kind in vars(module).values() if _is_model(kind)]
    assert [section for section in sections if section not in inherited] == []


def _modules() -> Iterator[ModuleType]:
    for module in pkgutil.iter_modules(settings.__path__):
        yield importlib.import_module(f"{settings.__name__}.{module.name}")


def _models(kind: Any) -> Iterator[type[BaseModel]]:
    if _is_model(kind):
        yield kind
    for part in get_args(kind):
        yield from _models(part)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
