#!/usr/bin/env python3
"""Writes the reference from the code: the proxy's settings, the roles' options, the VRAM table.

The settings go to docs/reference/settings.md; a role's options stand in its README, the planner's
table in the main one, between two markers around which a person writes. A test fails while a page
is out of date.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "app"))

from heartcode.settings import TABLE  # noqa: E402 - needs the path
from planlib.min_vram import requirements  # noqa: E402

BEGIN = "<!-- options: written by scripts/reference.py -->"
END = "<!-- end of options -->"
VRAM_BEGIN = "<!-- VRAM: written by scripts/reference.py -->"
VRAM_END = "<!-- end of VRAM -->"

SETTINGS_HEAD = """# Settings

The proxy and the exporter read these environment variables, on a rig from
`/etc/heartcode/heartcode.env`, which the role `app` writes. Wrong settings are all reported at once
and the service does not start (status 78). `scripts/reference.py` writes this page from
`app/heartcode/settings.py`.

| variable | default | unit | meaning |
| --- | --- | --- | --- |
"""


def settings_page() -> str:
    """Return docs/reference/settings.md."""
    rows = (
        f"| `{row.variable}` | {default_text(row.default)} | {row.unit} | {row.sentence} |\n"
        for row in TABLE
    )
    return SETTINGS_HEAD + "".join(rows)


def default_text(default: str | None) -> str:
    """Return how a setting's default is shown."""
    if default is None:
        return "*required*"
    return f"`{default}`" if default else "*empty*"


def options_table(options: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of a role's options, as in its argument_specs."""
    if not options:
        return "It has no options of its own.\n"
    head = "| variable | type | default | meaning |\n| --- | --- | --- | --- |\n"
    return head + "".join(option_rows(options))


def option_rows(options: Mapping[str, Mapping[str, Any]], parent: str = "") -> Iterator[str]:
    """Yield a row for each option, those of dictionaries in lists included."""
    for name, option in options.items():
        kind = option["type"] + (f" of {option['elements']}" if "elements" in option else "")
        if "default" in option:
            default = (
                f"`{option['default']}`" if option["default"] not in ("", [], {}) else "*empty*"
            )
        else:
            default = "*required*" if option.get("required") else ""
        choices = f" One of {', '.join(option['choices'])}." if "choices" in option else ""
        text = " ".join(str(option["description"]).split())
        yield f"| `{parent}{name}` | {kind} | {default} | {text}{choices} |\n"
        yield from option_rows(option.get("options", {}), f"{parent}{name}[].")


def role_page(role: Path) -> str:
    """Return a role's README with its table of options renewed."""
    specs = yaml.safe_load((role / "meta/argument_specs.yml").read_text())
    table = options_table(specs["argument_specs"]["main"]["options"])
    return renewed(role / "README.md", BEGIN, table, END)


def renewed(page: Path, begin: str, table: str, end: str) -> str:
    """Return a page with what stands between its two markers replaced."""
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{table}{end}{after}"


def pages() -> dict[Path, str]:
    """Return every page that is written from code, by path."""
    roles = sorted(path.parent for path in ROOT.glob("roles/*/README.md"))
    readme = ROOT / "README.md"
    return {
        ROOT / "docs/reference/settings.md": settings_page(),
        readme: renewed(readme, VRAM_BEGIN, requirements(), VRAM_END),
    } | {role / "README.md": role_page(role) for role in roles}


def main() -> None:
    """Write the pages that are out of date."""
    for path, text in pages().items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"{path.relative_to(ROOT)} written")


if __name__ == "__main__":
    main()
