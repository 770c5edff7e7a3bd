"""Settings that cannot be used, and what is said about them."""

from pathlib import Path
from typing import Any

import pytest

from router.settings.faults import SettingsError
from router.settings.loading import load

DECODE = {"url": "http://10.0.0.21:8201", "role": "decode"}


def write(folder: Path, text: str) -> Path:
    """A file with settings."""
    file = folder / "pd-router.yaml"
    file.write_text(text)
    return file


def faults(**sources: Any) -> list[str]:
    """What `load` finds wrong; without `environ` the environment is empty."""
    with pytest.raises(SettingsError) as caught:
        load(**{"environ": {}, **sources})
    return caught.value.faults
