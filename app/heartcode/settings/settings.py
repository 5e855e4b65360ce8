"""The settings as the programs have them, read from the environment.

    settings = Settings.from_env(os.environ)

Only the entry points (`gunicorn.conf.py`, `wsgi`, `exporter`) hand over the process environment;
nothing else reads it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heartcode.settings.table import PER_BACKEND, TABLE

# sysexits.h EX_CONFIG. The unit names it in RestartPreventExitStatus: another start mends nothing.
EXIT_BAD_SETTINGS = 78


class SettingsError(ValueError):
    """Some settings cannot be used; `problems` holds a sentence for each of them."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        lines = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(f"HeartCode cannot start, its settings are wrong:{lines}")


def _wrong_lengths(values: Mapping[str, Any]) -> Iterator[str]:
    count = len(values.get("backends", ()))
    if len(values.get("rig_addresses", ())) not in (0, count):
        yield "HEARTCODE_RIG_ADDRESSES has more or fewer addresses than there are rigs"
    if len(values.get("rig_models", ())) not in (0, count):
        yield "HEARTCODE_RIG_MODELS has more or fewer entries than there are rigs"
    for setting in TABLE:
        numbers = values.get(setting.field)
        if setting.field not in PER_BACKEND or numbers is None or "backends" not in values:
            continue
        if len(numbers) not in (1, len(values["backends"])):
            yield f"{setting.variable} has more or fewer numbers than there are backends"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a person can set. The fields are described in `TABLE`."""

    backends: tuple[str, ...]
    slots: tuple[int, ...]
    gpu_uuids: tuple[tuple[str, ...], ...]
    gpu_interval_s: float
    gpu_timeout_s: float
    llama_counters_interval_s: float
    host_cache_tokens: int
    token_bytes: tuple[int, ...]
    prompt_speeds: tuple[float, ...]
    decode_speeds: tuple[float, ...]
    policy: str
    queue_length: int
    queue_wait_s: float
    listen: str
    port: int
    metrics_port: int
    models: tuple[tuple[str, ...], ...]
    connect_timeout_s: float
    silence_timeout_s: float
    token_silence_timeout_s: float
    ping_interval_s: float
    client_stall_timeout_s: float
    max_moves: int
    request_timeout_s: float
    status_timeout_s: float
    max_connections: int
    suspect_s: float
    probe_timeout_s: float
    probe_idle_s: float
    probe_pause_s: float
    probe_pause_max_s: float
    revive_pause_s: float
    max_body_bytes: int
    max_request_line_bytes: int
    max_headers: int
    max_header_bytes: int
    max_json_depth: int
    max_tokens: int
    rig_addresses: tuple[str, ...]
    rig_models: tuple[tuple[str, ...], ...]
    rig_silence_s: float
    warm_dir: Path
    warm_mib: int
    warm_idle_s: float
    warm_keep_s: float
    warm_min_tokens: int
    learnt_dir: Path
    run_dir: Path
    metrics_dir: Path
    graceful_timeout_s: int
    log_level: str

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Read the settings; a variable that is empty counts as absent.

        Raises:
            SettingsError: naming every variable that is missing or wrong.
        """
        values: dict[str, Any] = {}
        problems: list[str] = []
        for setting in TABLE:
            text = env.get(setting.variable, "").strip() or setting.default
            if text is None:
                problems.append(f"{setting.variable} is missing ({setting.unit})")
                continue
            try:
                values[setting.field] = setting.parse(text)
            except ValueError as error:
                problems.append(f"{setting.variable}={text} {error}")
        if "port" in values and values["port"] == values.get("metrics_port"):
            problems.append("PORT and METRICS_PORT are the same")
        problems += _wrong_lengths(values)
        if values.get("probe_pause_s", 0) > values.get("probe_pause_max_s", math.inf):
            problems.append("HEARTCODE_PROBE_PAUSE_S is above HEARTCODE_PROBE_PAUSE_MAX_S")
        if len(values.get("models", ())) not in (0, 1, len(values.get("backends", ()))):
            problems.append("HEARTCODE_MODEL names neither one model nor one for each backend")
        if len(values.get("gpu_uuids", ())) not in (0, len(values.get("backends", ()))):
            problems.append("HEARTCODE_GPU_UUIDS does not name cards for each backend")
        if problems:
            raise SettingsError(problems)
        return cls(**values)

    def slots_of_backends(self) -> tuple[int, ...]:
        """Return the slots of each backend."""
        return self.slots if len(self.slots) > 1 else self.slots * len(self.backends)

    def token_bytes_of_backends(self) -> tuple[int, ...]:
        """Return the longest token of each backend's vocabulary, 0 where it is not known."""
        lengths = self.token_bytes
        return lengths if len(lengths) > 1 else lengths * len(self.backends)

    def names_of_backends(self) -> tuple[tuple[str, ...], ...]:
        """Return the names of the model that each backend serves, () where none is set."""
        models = self.models or ((),)
        return models if len(models) > 1 else models * len(self.backends)

    def models_of_backends(self) -> tuple[str, ...]:
        """Return the id of the model that each backend serves, "" where no name is set."""
        return tuple(names[0] if names else "" for names in self.names_of_backends())

    def speeds_of_backends(self) -> tuple[tuple[float, float], ...]:
        """Return each backend's prompt and decode speed to start with, 0 where it is not known."""
        count = len(self.backends)
        prompt, decode = (
            speeds if len(speeds) > 1 else speeds * count
            for speeds in (self.prompt_speeds, self.decode_speeds)
        )
        return tuple(zip(prompt, decode, strict=True))
