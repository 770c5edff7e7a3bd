"""Writes every dashboard into `dashboards/`."""

from collections.abc import Mapping
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana import gateway_internals, overview, pool_detail

FOLDER = Path(__file__).parent / "dashboards"

BOARDS = {
    "overview.json": overview.dashboard,
    "pool-detail.json": pool_detail.dashboard,
    "gateway-internals.json": gateway_internals.dashboard,
}


def rendered() -> Mapping[str, str]:
    """The files' contents by name."""
    return {name: JSONEncoder(sort_keys=True, indent=2).encode(made().build()) + "\n" for name, made in BOARDS.items()}


def main() -> None:
    """Write the files."""
    FOLDER.mkdir(exist_ok=True)
    for name, content in rendered().items():
        (FOLDER / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
