"""How are settings read? Once at start.

Order of precedence: command-line flags, then environment variables `PD_ROUTER_*` (nested with `__`), then the YAML
file, then the defaults of the command, then the defaults of the tree.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, InitSettingsSource, PydanticBaseSettingsSource
from pydantic_settings import SettingsError as EnvError

from router.settings.checks import unfit, unknown_variables
from router.settings.engines import BackendSettings
from router.settings.faults import SettingsError, explain
from router.settings.tree import Settings


def load(
    config: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings from all sources, validated.

    `flags` and `defaults` are nested mappings shaped like the tree. The `backends` of `flags` are added to the
    configured ones, everything else overrides; `defaults` are what a command prefers to the defaults of the tree.
    Raises `SettingsError` with one line per fault.
    """
    environ = os.environ if environ is None else environ
    flags = dict(flags or {})
    added = flags.pop("backends", ())
    file_values = {} if config is None else _read_yaml(config)
    variables = {name.lower(): value for name, value in environ.items()}
    faults: list[str] = []

    class Sources(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            env = EnvSettingsSource(settings_cls)
            env.env_vars = variables
            given = InitSettingsSource(settings_cls, init_kwargs=file_values)
            return init_settings, env, given, InitSettingsSource(settings_cls, init_kwargs=dict(defaults or {}))

    try:
        settings: Settings = Sources(**flags)
    except ValidationError as error:
        faults = [explain(fault) for fault in error.errors()]
        settings = Settings.model_construct()
    except EnvError as error:
        raise SettingsError([f"environment: {error}: a JSON value is expected there"]) from None
    added_backends, flag_faults = _added_backends(added, len(settings.backends))
    backends = (*settings.backends, *added_backends)
    faults = [*unknown_variables(settings, backends, environ), *faults, *flag_faults]
    faults += unfit(settings, backends, environ)
    if faults:
        raise SettingsError(faults)
    return Settings.model_construct(**dict(settings) | {"backends": backends})


def _added_backends(added: Iterable[Mapping[str, Any]], first: int) -> tuple[list[BackendSettings], list[str]]:
    """The engines that flags name, and what is wrong with them; counted on from `first`, after the configured ones."""
    backends: list[BackendSettings] = []
    faults: list[str] = []
    for i, fields in enumerate(added, first):
        try:
            backends.append(BackendSettings.model_validate(fields))
        except ValidationError as error:
            faults += [explain(fault, ("backends", i)) for fault in error.errors()]
    return backends, faults


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError([f"{path}: cannot be read: {error.strerror}"]) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no text, or a date that there is not
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        why = " ".join(str(getattr(error, "problem", error)).split())
        raise SettingsError([f"{path}{line}: not valid YAML: {why}"]) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError([f"{path}: must be a mapping of sections, such as `listen:`"])
    return {str(key): value for key, value in values.items()}
