"""Which keys and tokens do settings name? They are read from variables and files, and stand in no tree."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from router.settings.edge import Listen, Ops
from router.settings.engines import BackendSettings
from router.settings.faults import SettingsError

CLIENTS_KEY = re.compile(r"[!-~]+")
"""What a client's key may be: printable ASCII without spaces, so no line break either."""

SENDABLE = re.compile(r"[!-~](?:[ -~]*[!-~])?")
"""What a header can carry: spaces too, but at the ends they are lost."""


def fault_in(variable: str, environ: Mapping[str, str] | None = None) -> str | None:
    """Why what a variable holds cannot be sent as a key, None when it can. Its value is not in there."""
    value = (os.environ if environ is None else environ).get(variable)
    if not value:
        return f"the environment variable {variable} is not set"
    if not SENDABLE.fullmatch(value):
        return (
            f"the environment variable {variable} must hold printable ASCII, without line breaks or spaces at its ends"
        )
    return None


def engine_key(backend: BackendSettings, environ: Mapping[str, str] | None = None) -> SecretStr | None:
    """The API key of an engine, read from the variable that `key_env` names; None when it needs none."""
    environ = os.environ if environ is None else environ
    return SecretStr(environ[backend.key_env]) if backend.key_env else None


def clients_key(listen: Listen, environ: Mapping[str, str] | None = None) -> SecretStr | None:
    """The key that clients need, from the file or variable that is named; None when they need none.

    Raises `SettingsError` when the file cannot be read.
    """
    environ = os.environ if environ is None else environ
    if listen.api_key_file is None:
        key = environ.get(listen.api_key_env, "")
    else:
        try:
            key = Path(listen.api_key_file).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:  # ValueError: a name that there cannot be, or bytes that are no text
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise SettingsError([f"listen.api_key_file: the file cannot be read: {why}"]) from None
    return SecretStr(key) if key else None


def operators_token(ops: Ops, environ: Mapping[str, str] | None = None) -> SecretStr | None:
    """The token that changes need, read from the variable that `token_env` names; None when there is none."""
    environ = os.environ if environ is None else environ
    return SecretStr(environ[ops.token_env]) if ops.token_env else None
