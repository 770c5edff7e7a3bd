"""Is everything in the wheel that the program needs at run time?"""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.support.tree import ROOT, SOURCE, files

BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE")


def test_the_wheel_has_every_module_and_every_part_of_the_console(tmp_path: Path) -> None:
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    shutil.copytree(SOURCE, source / "router", ignore=shutil.ignore_patterns("__pycache__"))
    for name in BUILT_FROM:
        shutil.copy(ROOT / name, source)
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(wheels), "."]
    subprocess.run([sys.executable, *build], cwd=source, check=True)
    (wheel,) = wheels.iterdir()
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert {str(path.relative_to(ROOT)) for path in files(SOURCE)} - packed == set()
