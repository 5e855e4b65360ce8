#!/usr/bin/env python3
"""Writes the reference from the code: settings, metrics, the inventory, the VRAM table.

Settings, metrics and the inventory's variables go to docs/reference/; a role's options stand in its
README, the planner's table in the main one, between two markers around which a person writes. A
test fails while a page is out of date.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from prometheus_client import Counter, Gauge, Histogram, Metric

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "app"))

from heartcode.exporter import readings
from heartcode.gateway import metrics as relay_metrics
from heartcode.settings import TABLE
from heartcode.telemetry import metrics
from heartcode_models.planner.min_vram import requirements

ROOT = Path(__file__).parents[1]
BEGIN = "<!-- options: written by tools/reference.py -->"
END = "<!-- end of options -->"
VRAM_BEGIN = "<!-- VRAM: written by tools/reference.py -->"
VRAM_END = "<!-- end of VRAM -->"

SETTINGS_HEAD = """# Settings

The proxy and the exporter read these environment variables, on a rig from
`/etc/heartcode/heartcode.env`, which the role `app` writes. Wrong settings are all reported at once
and the service does not start (status 78). `tools/reference.py` writes this page from
`app/heartcode/settings/table.py`.

| variable | default | unit | meaning |
| --- | --- | --- | --- |
"""


INVENTORY_HEAD = """# The inventory's variables

Beside the list of hosts in [inventory/example.yml](../../inventory/example.yml) none is needed.
Each may be set for all hosts, for a group or for one host, in the inventory's `vars` or in
`inventory/group_vars/rigs.yml`, `inventory/host_vars/rig1.yml` and the like. `tools/reference.py`
writes this page from the roles' `meta/argument_specs.yml`.

Of Ansible's own: `ansible_host` is where it reaches a host, `ansible_user` as whom (root, or an
account with sudo). `heartcode_address` is where the other hosts reach it, if that is elsewhere.

What people set most:

| wish | variables |
| --- | --- |
| another model | `model_name`, `model_quantisation` |
| a GGUF of your own | `model_file`, `model_src` |
| context, conversations at a time | `llama_server_n_ctx`, `llama_server_slots` |
| fewer cards | `llama_server_gpus_except` |
| a card with settings of its own | `llama_server_gpus` |
| a model larger than a rig | `llama_server_helpers`, and the group `helpers` |
| a rig with a driver of its own (HiveOS) | `gpu_driver_mode: present` |
| keys with names and limits, TLS | `gateway_api_keys`; `gateway_tls` |
| any setting of the proxy | `app_settings`, with what [settings](settings.md) lists |
| a firewall of your own | `firewall_enabled: false` |
| a host without cards | `llama_cpp_backend: cpu` |

"""

METRICS_HEAD = """# Metrics

What `heartcode-exporter.service` serves on port 9091 of a rig. `tools/reference.py` writes this
page from `app/heartcode/telemetry/metrics.py` and `app/heartcode/exporter/readings.py`. Prometheus
adds the label `rig`. Recording rules and alerts are made of these:
[roles/prometheus](../../roles/prometheus/README.md).

"""
MEASURED_HEAD = """## What a gateway measures

Timers write it (`heartcode-shown-certificate.timer`, `heartcode-mirror.timer`), the node exporter
on port 9100 serves it. Prometheus adds the label `host`.

"""
RELAY_HEAD = """## What a gateway's relay counts

It serves them itself, on its port 4003 of the loopback interface, to the Prometheus of that host,
which adds the label `host`.

"""
METRICS_TABLE = "| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n"


def metrics_page() -> str:
    """Return docs/reference/metrics.md."""
    rows = counted(metrics)
    page = f"{METRICS_HEAD}## What the proxy counts\n\n{METRICS_TABLE}{''.join(rows)}"
    rows = [metric_row(r.name, r.type, r.labels, r.text) for r in readings.READINGS]
    page += f"\n## What the exporter reads\n\n{METRICS_TABLE}{''.join(rows)}"
    reasons = "".join(f"- `{r}`: {text}\n" for r, text in readings.GPU_READ_ERROR_REASONS.items())
    page += f"\n`reason` of `{readings.GPU_READ_ERRORS.name}`:\n\n{reasons}"
    page += f"\n{RELAY_HEAD}{METRICS_TABLE}{''.join(counted(relay_metrics))}"
    rows = [metric_row(r.name, r.type, r.labels, r.text) for r in readings.MEASURED]
    return f"{page}\n{MEASURED_HEAD}{METRICS_TABLE}{''.join(rows)}"


def counted(module: ModuleType) -> list[str]:
    """Return the rows of the metrics that a module defines."""
    return [
        metric_row(full_name(family), family.type, metric._labelnames, family.documentation)  # noqa: SLF001
        for metric in vars(module).values()
        if isinstance(metric, Counter | Gauge | Histogram)
        for family in metric.describe()
    ]


def full_name(family: Metric) -> str:
    """Return a metric's name as it is scraped."""
    return f"{family.name}_total" if family.type == "counter" else family.name


def metric_row(name: str, kind: str, labels: Sequence[str], text: str) -> str:
    """Return one row of the table of metrics."""
    named = ", ".join(f"`{label}`" for label in labels)
    return f"| `{name}` | {kind} | {named} | {text} |\n"


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
        said = option["description"]  # a paragraph, or a list of them
        text = " ".join((said if isinstance(said, str) else " ".join(said)).split())
        yield f"| `{parent}{name}` | {kind} | {default} | {text}{choices} |\n"
        yield from option_rows(option.get("options", {}), f"{parent}{name}[].")


def inventory_page() -> str:
    """Return docs/reference/inventory.md."""
    page = INVENTORY_HEAD
    for specs in sorted(ROOT.glob("roles/*/meta/argument_specs.yml")):
        main = yaml.safe_load(specs.read_text())["argument_specs"]["main"]
        name = specs.parents[1].name
        if main["options"]:
            link = f"[roles/{name}](../../roles/{name}/README.md)"
            page += f"## {name}\n\n{main['short_description']}: {link}.\n\n"
            page += options_table(main["options"]) + "\n"
    return page.rstrip("\n") + "\n"


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
        ROOT / "docs/reference/metrics.md": metrics_page(),
        ROOT / "docs/reference/inventory.md": inventory_page(),
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
