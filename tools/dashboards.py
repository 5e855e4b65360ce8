#!/usr/bin/env python3
"""Writes the Grafana dashboards from `tools.grafana` to roles/grafana/files/dashboards.

A test fails while one of them is out of date.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.grafana.pages import DASHBOARDS

OUT = Path(__file__).parents[1] / "roles/grafana/files/dashboards"


def files() -> dict[Path, str]:
    """Return every dashboard's file, by path."""
    return {
        OUT / f"{board.uid}.json": json.dumps(board.as_json(), indent=2, ensure_ascii=False) + "\n"
        for board in DASHBOARDS
    }


def main() -> None:
    """Write the files that are out of date, and delete those that are no dashboard's."""
    OUT.mkdir(parents=True, exist_ok=True)
    wanted = files()
    for path in set(OUT.glob("*.json")) - set(wanted):
        path.unlink()
    for path, text in wanted.items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"{path.name} written")


if __name__ == "__main__":
    main()
