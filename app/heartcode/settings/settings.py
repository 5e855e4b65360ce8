"""The settings of the proxy and its exporter, in one table that feeds code and documentation.

    settings = Settings.from_env(os.environ)

Only the entry points (`gunicorn.conf.py`, `wsgi`, `exporter`) hand over the process environment;
nothing else reads it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# sysexits.h EX_CONFIG. The unit names it in RestartPreventExitStatus: another start mends nothing.
EXIT_BAD_SETTINGS = 78

# The functions are in `policy`. A test compares.
_POLICIES = ("time_to_first_token", "least_busy", "round_robin")


class SettingsError(ValueError):
    """Some settings cannot be used; `problems` holds a sentence for each of them."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        lines = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(f"HeartCode cannot start, its settings are wrong:{lines}")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row of the table: a field of `Settings` and the variable that fills it.

    `default` is None where a value must be given. `parse` raises ValueError with the second half of
    a sentence, "is not ...".
    """

    field: str
    variable: str
    default: str | None
    unit: str
    sentence: str
    parse: Callable[[str], Any]


def _whole_number(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        problem = f"is not a whole number from {lowest} to {highest}"
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(highest))):
            raise ValueError(problem)
        if not lowest <= int(text) <= highest:
            raise ValueError(problem)
        return int(text)

    return parse


def _seconds(highest: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 < value <= highest:  # false for "nan" too
            raise ValueError(f"is not a number of seconds above 0 and up to {highest:g}")
        return value

    return parse


def _address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise ValueError("is not an IP address") from None


def _directory(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise ValueError("is not an absolute path")
    return path


def _log_level(text: str) -> str:
    levels = ("debug", "info", "warning", "error")
    if text.lower() not in levels:
        raise ValueError(f"is not one of {', '.join(levels)}")
    return text.lower()


def _base_url(text: str) -> str:
    problem = f"holds {text!r}, which is not a base URL like http://127.0.0.1:8081"
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ValueError(problem) from None
    # http alone: backends listen on the loopback interface. No path: the client's is passed on.
    extra = url.username or url.password or url.query or url.fragment or url.path.strip("/")
    if url.scheme != "http" or not url.hostname or not port or extra:
        raise ValueError(problem)
    return text.rstrip("/")


def _base_urls(text: str) -> tuple[str, ...]:
    urls = tuple(_base_url(part.strip()) for part in text.split(","))
    if len(set(urls)) != len(urls):
        raise ValueError("names a backend twice")
    return urls


def _slots(text: str) -> tuple[int, ...]:
    try:
        return tuple(_whole_number(1, 64)(part.strip()) for part in text.split(","))
    except ValueError:
        raise ValueError("is not a list of whole numbers from 1 to 64") from None


def _gpu_uuids(text: str) -> tuple[str, ...]:
    uuids = tuple(part.strip() for part in text.split(",")) if text else ()
    if not all(uuids):
        raise ValueError("has an empty UUID")
    if len(set(uuids)) != len(uuids):
        raise ValueError("names a card twice")
    return uuids


def _speeds(text: str) -> tuple[float, ...]:
    problem = "is not a list of tokens/s from 0 to 1000000"
    try:
        speeds = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(problem) from None
    if not all(0 <= speed <= 1_000_000 for speed in speeds):  # noqa: PLR2004 - stands in `problem`
        raise ValueError(problem)
    return speeds


def _one_of(*names: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"is not one of {', '.join(names)}")
        return text

    return parse


def _models(text: str) -> tuple[tuple[str, ...], ...]:
    if not text:
        return ()
    models = tuple(tuple(n.strip() for n in part.split("|")) for part in text.split(","))
    if not all(name for model in models for name in model):
        raise ValueError("has an empty name")
    # Several backends may serve one model; then all of its names are the same.
    names = [name for model in set(models) for name in model]
    if len(set(names)) != len(names):
        raise ValueError("gives a name to two models")
    return models


TABLE: tuple[Setting, ...] = (
    Setting(
        field="backends",
        variable="HEARTCODE_BACKENDS",
        default=None,
        unit="base URLs, separated by commas",
        sentence="The rig's llama-servers, one for each GPU.",
        parse=_base_urls,
    ),
    Setting(
        field="slots",
        variable="HEARTCODE_SLOTS",
        default="1",
        unit="requests, separated by commas",
        sentence=(
            "How many requests each backend works on at a time, its llama-server's -np, in the "
            "order of HEARTCODE_BACKENDS; a single number is for all of them."
        ),
        parse=_slots,
    ),
    Setting(
        field="gpu_uuids",
        variable="HEARTCODE_GPU_UUIDS",
        default="",
        unit="UUIDs, separated by commas",
        sentence=(
            "The cards of the backends, in the order of HEARTCODE_BACKENDS, for the exporter; what "
            "does not begin with GPU- is no card. Empty: no card is read."
        ),
        parse=_gpu_uuids,
    ),
    Setting(
        field="gpu_interval_s",
        variable="HEARTCODE_GPU_INTERVAL_S",
        default="5",
        unit="seconds",
        sentence="Time between two readings of a card.",
        parse=_seconds(300),
    ),
    Setting(
        field="gpu_timeout_s",
        variable="HEARTCODE_GPU_TIMEOUT_S",
        default="15",
        unit="seconds",
        sentence="How long the driver may take for a reading; then the card does not count as up.",
        parse=_seconds(300),
    ),
    Setting(
        field="llama_counters_interval_s",
        variable="HEARTCODE_LLAMA_COUNTERS_INTERVAL_S",
        default="15",
        unit="seconds",
        sentence="Time between two readings of a llama-server's own counters.",
        parse=_seconds(3600),
    ),
    Setting(
        field="host_cache_tokens",
        variable="HEARTCODE_HOST_CACHE_TOKENS",
        default="0",
        unit="tokens",
        sentence=(
            "How many tokens each llama-server keeps in host memory when a conversation loses its "
            "slot, its --cache-ram divided by the KV bytes of a token; 0: not counted on."
        ),
        parse=_whole_number(0, 100_000_000),
    ),
    Setting(
        field="prompt_speeds",
        variable="HEARTCODE_PROMPT_SPEEDS",
        default="0",
        unit="tokens/s, separated by commas",
        sentence=(
            "How fast each backend evaluates prompts, as playbooks/tune.yml measured it, in the "
            "order of HEARTCODE_BACKENDS, or a single number for all; 0: not known. What the "
            "proxy starts with, until answers tell."
        ),
        parse=_speeds,
    ),
    Setting(
        field="decode_speeds",
        variable="HEARTCODE_DECODE_SPEEDS",
        default="0",
        unit="tokens/s, separated by commas",
        sentence="How fast each backend generates for one conversation; likewise.",
        parse=_speeds,
    ),
    Setting(
        field="policy",
        variable="HEARTCODE_POLICY",
        default="time_to_first_token",
        unit="name",
        sentence=(
            "How a backend is chosen: time_to_first_token (predicted), least_busy or round_robin; "
            "the last two are for comparison."
        ),
        parse=_one_of(*_POLICIES),
    ),
    Setting(
        field="queue_length",
        variable="HEARTCODE_QUEUE_LENGTH",
        default="64",
        unit="requests",
        sentence="How many requests may wait for a slot; a further one is answered with 429.",
        parse=_whole_number(0, 100_000),
    ),
    Setting(
        field="queue_wait_s",
        variable="HEARTCODE_QUEUE_WAIT_S",
        default="120",
        unit="seconds",
        sentence="How long a request may wait for a slot; then it is answered with 504.",
        parse=_seconds(86400),
    ),
    Setting(
        field="listen",
        variable="HEARTCODE_LISTEN",
        default="0.0.0.0",  # noqa: S104 - the gateway is another host
        unit="IP address",
        sentence="Where the proxy and the exporter listen.",
        parse=_address,
    ),
    Setting(
        field="port",
        variable="PORT",
        default="8080",
        unit="TCP port",
        sentence="The port of the proxy.",
        parse=_whole_number(1, 65535),
    ),
    Setting(
        field="metrics_port",
        variable="METRICS_PORT",
        default="9091",
        unit="TCP port",
        sentence="The port of the exporter.",
        parse=_whole_number(1, 65535),
    ),
    Setting(
        field="models",
        variable="HEARTCODE_MODEL",
        default="",
        unit="names, separated by commas",
        sentence=(
            "The model of all backends, or one for each of them in their order; the first is the "
            "default. Further names of a model follow it after `|`. Empty: any `model` in a "
            "request is served by any backend."
        ),
        parse=_models,
    ),
    Setting(
        field="connect_timeout_s",
        variable="HEARTCODE_CONNECT_TIMEOUT_S",
        default="2",
        unit="seconds",
        sentence="How long a backend may take to accept a connection.",
        parse=_seconds(60),
    ),
    Setting(
        field="silence_timeout_s",
        variable="HEARTCODE_SILENCE_TIMEOUT_S",
        default="600",
        unit="seconds",
        sentence=(
            "How long a backend may send nothing; an answer that is not streamed is silent until "
            "its last token."
        ),
        parse=_seconds(86400),
    ),
    Setting(
        field="token_silence_timeout_s",
        variable="HEARTCODE_TOKEN_SILENCE_TIMEOUT_S",
        default="30",
        unit="seconds",
        sentence=(
            "How long a stream that has begun may pause before another backend goes on with it; "
            "until then HEARTCODE_SILENCE_TIMEOUT_S holds."
        ),
        parse=_seconds(86400),
    ),
    Setting(
        field="request_timeout_s",
        variable="HEARTCODE_REQUEST_TIMEOUT_S",
        default="1800",
        unit="seconds",
        sentence=(
            "How long a request may take in all; then it is answered with 504, or its stream ends "
            "with an error."
        ),
        parse=_seconds(86400),
    ),
    Setting(
        field="ping_interval_s",
        variable="HEARTCODE_PING_INTERVAL_S",
        default="15",
        unit="seconds",
        sentence="How often the client of a stream gets a sign of life while no token is there.",
        parse=_seconds(3600),
    ),
    Setting(
        field="client_stall_timeout_s",
        variable="HEARTCODE_CLIENT_STALL_TIMEOUT_S",
        default="60",
        unit="seconds",
        sentence="How long the client of a stream may take nothing of it before it counts as gone.",
        parse=_seconds(86400),
    ),
    Setting(
        field="max_moves",
        variable="HEARTCODE_MAX_MOVES",
        default="3",
        unit="backends",
        sentence="How many further backends a request may be moved to when one fails.",
        parse=_whole_number(0, 100),
    ),
    Setting(
        field="status_timeout_s",
        variable="HEARTCODE_STATUS_TIMEOUT_S",
        default="2",
        unit="seconds",
        sentence=(
            "How long a backend may take to tell about itself (models, props, slots), and how long "
            "/health waits for the first probe when the proxy has just started."
        ),
        parse=_seconds(60),
    ),
    Setting(
        field="suspect_s",
        variable="HEARTCODE_SUSPECT_S",
        default="15",
        unit="seconds",
        sentence=(
            "How long a backend that works on requests may say nothing to any of them before it is "
            "asked whether it still computes."
        ),
        parse=_seconds(3600),
    ),
    Setting(
        field="max_connections",
        variable="HEARTCODE_MAX_CONNECTIONS",
        default="4096",
        unit="connections",
        sentence="How many clients may be connected; further ones wait until one has left.",
        # heartcode.service: LimitNOFILE=16384, and a stream has two sockets.
        parse=_whole_number(16, 8000),
    ),
    Setting(
        field="probe_timeout_s",
        variable="HEARTCODE_PROBE_TIMEOUT_S",
        default="30",
        unit="seconds",
        sentence=(
            "How long a backend may take for the one token of a probe or, while it works on "
            "requests, to get to the end of a batch; one that takes longer hangs and is restarted."
        ),
        parse=_seconds(3600),
    ),
    Setting(
        field="probe_idle_s",
        variable="HEARTCODE_PROBE_IDLE_S",
        default="300",
        unit="seconds",
        sentence="How long a backend may be idle before a probe lets it generate a token.",
        parse=_seconds(86400),
    ),
    Setting(
        field="probe_pause_s",
        variable="HEARTCODE_PROBE_PAUSE_S",
        default="1",
        unit="seconds",
        sentence=(
            "After how long a backend that failed is probed; the pause doubles with each failure. "
            "Until a probe has brought a token it gets requests only when there is no other."
        ),
        parse=_seconds(3600),
    ),
    Setting(
        field="probe_pause_max_s",
        variable="HEARTCODE_PROBE_PAUSE_MAX_S",
        default="10",
        unit="seconds",
        sentence="The longest pause between two probes of a backend that fails.",
        parse=_seconds(3600),
    ),
    Setting(
        field="revive_pause_s",
        variable="HEARTCODE_REVIVE_PAUSE_S",
        default="300",
        unit="seconds",
        sentence=(
            "How long after the restart of a backend that hung another one may be asked for; "
            "longer than it takes to load its model."
        ),
        parse=_seconds(86400),
    ),
    Setting(
        field="max_body_bytes",
        variable="HEARTCODE_MAX_BODY_BYTES",
        default=str(10 * 1024 * 1024),
        unit="bytes",
        sentence="The largest request body; a larger one is answered with 413.",
        parse=_whole_number(1024, 1024 * 1024 * 1024),
    ),
    Setting(
        field="max_request_line_bytes",
        variable="HEARTCODE_MAX_REQUEST_LINE_BYTES",
        default="4094",
        unit="bytes",
        sentence="The longest first line (method and URL) of a request; a longer one gets 414.",
        parse=_whole_number(256, 8190),
    ),
    Setting(
        field="max_headers",
        variable="HEARTCODE_MAX_HEADERS",
        default="100",
        unit="headers",
        sentence="How many headers a request may have; more get 431.",
        parse=_whole_number(16, 1000),
    ),
    Setting(
        field="max_header_bytes",
        variable="HEARTCODE_MAX_HEADER_BYTES",
        default="8190",
        unit="bytes",
        sentence="The longest header of a request; a longer one gets 431.",
        parse=_whole_number(256, 65536),
    ),
    Setting(
        field="max_json_depth",
        variable="HEARTCODE_MAX_JSON_DEPTH",
        default="100",
        unit="levels",
        sentence="How deeply a request's JSON may be nested; a deeper one is answered with 400.",
        parse=_whole_number(2, 500),
    ),
    Setting(
        field="max_tokens",
        variable="HEARTCODE_MAX_TOKENS",
        default="131072",
        unit="tokens",
        sentence=(
            "The largest `max_tokens` (`n_predict`, `max_completion_tokens`, `max_output_tokens`); "
            "a larger one is answered with 400. A request that names none, or -1, ends with the "
            "context."
        ),
        parse=_whole_number(1, 2**31 - 1),
    ),
    Setting(
        field="run_dir",
        variable="HEARTCODE_RUN_DIR",
        default="/run/heartcode",
        unit="directory",
        sentence=(
            "New requests are refused while a file `draining` lies here; a file `hung/N` asks for "
            "a restart of heartcode-llama@N."
        ),
        parse=_directory,
    ),
    Setting(
        field="metrics_dir",
        variable="HEARTCODE_METRICS_DIR",
        default="/run/heartcode/metrics",
        unit="directory",
        sentence="Where the proxy keeps its metrics for the exporter.",
        parse=_directory,
    ),
    Setting(
        field="graceful_timeout_s",
        variable="HEARTCODE_GRACEFUL_TIMEOUT_S",
        default="30",
        unit="seconds",
        sentence=(
            "How long running requests may go on when the proxy stops; then their streams end with "
            "an error."
        ),
        # heartcode.service is killed after 90 seconds (TimeoutStopSec).
        parse=_whole_number(1, 80),
    ),
    Setting(
        field="log_level",
        variable="HEARTCODE_LOG_LEVEL",
        default="info",
        unit="level",
        sentence="debug, info, warning or error; debug also logs successful health checks.",
        parse=_log_level,
    ),
)


#: Fields that hold a number for each backend, or one for all of them.
_PER_BACKEND = ("slots", "prompt_speeds", "decode_speeds")


def _wrong_lengths(values: Mapping[str, Any]) -> Iterator[str]:
    for setting in TABLE:
        numbers = values.get(setting.field)
        if setting.field not in _PER_BACKEND or numbers is None or "backends" not in values:
            continue
        if len(numbers) not in (1, len(values["backends"])):
            yield f"{setting.variable} has more or fewer numbers than there are backends"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a person can set. The fields are described in `TABLE`."""

    backends: tuple[str, ...]
    slots: tuple[int, ...]
    gpu_uuids: tuple[str, ...]
    gpu_interval_s: float
    gpu_timeout_s: float
    llama_counters_interval_s: float
    host_cache_tokens: int
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
            problems.append("HEARTCODE_GPU_UUIDS does not name one card for each backend")
        if problems:
            raise SettingsError(problems)
        return cls(**values)

    def slots_of_backends(self) -> tuple[int, ...]:
        """Return the slots of each backend."""
        return self.slots if len(self.slots) > 1 else self.slots * len(self.backends)

    def models_of_backends(self) -> tuple[str, ...]:
        """Return the id of the model that each backend serves, "" where no name is set."""
        ids = tuple(names[0] for names in self.models) or ("",)
        return ids if len(ids) > 1 else ids * len(self.backends)

    def speeds_of_backends(self) -> tuple[tuple[float, float], ...]:
        """Return each backend's prompt and decode speed to start with, 0 where it is not known."""
        count = len(self.backends)
        prompt, decode = (
            speeds if len(speeds) > 1 else speeds * count
            for speeds in (self.prompt_speeds, self.decode_speeds)
        )
        return tuple(zip(prompt, decode, strict=True))
