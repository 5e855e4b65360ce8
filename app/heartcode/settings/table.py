"""The table of settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from heartcode.settings import parsers

# `heartcode.routing.policy` has the functions. A test compares.
_POLICIES = ("time_to_first_token", "least_busy", "round_robin")


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


TABLE: tuple[Setting, ...] = (
    Setting(
        field="backends",
        variable="HEARTCODE_BACKENDS",
        default=None,
        unit="base URLs, separated by commas",
        sentence="The rig's llama-servers, one for each GPU.",
        parse=parsers.base_urls,
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
        parse=parsers.slots,
    ),
    Setting(
        field="gpu_uuids",
        variable="HEARTCODE_GPU_UUIDS",
        default="",
        unit="UUIDs, separated by commas",
        sentence=(
            "The cards of the backends, in the order of HEARTCODE_BACKENDS, for the exporter and "
            "/fleet; several of one backend with + between them. What does not begin with GPU- is "
            "no card, and UUID@HOST one that another host lends and reads. Empty: no card is read."
        ),
        parse=parsers.gpu_uuids,
    ),
    Setting(
        field="gpu_interval_s",
        variable="HEARTCODE_GPU_INTERVAL_S",
        default="5",
        unit="seconds",
        sentence="Time between two readings of a card.",
        parse=parsers.seconds(300),
    ),
    Setting(
        field="gpu_timeout_s",
        variable="HEARTCODE_GPU_TIMEOUT_S",
        default="15",
        unit="seconds",
        sentence="How long the driver may take for a reading; then the card does not count as up.",
        parse=parsers.seconds(300),
    ),
    Setting(
        field="llama_counters_interval_s",
        variable="HEARTCODE_LLAMA_COUNTERS_INTERVAL_S",
        default="15",
        unit="seconds",
        sentence="Time between two readings of a llama-server's own counters.",
        parse=parsers.seconds(3600),
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
        parse=parsers.whole_number(0, 100_000_000),
    ),
    Setting(
        field="token_bytes",
        variable="HEARTCODE_TOKEN_BYTES",
        default="0",
        unit="bytes, separated by commas",
        sentence=(
            "The longest token of each backend's vocabulary, white space not counted, in the order "
            "of HEARTCODE_BACKENDS, or a single number for all: a prompt that surely has more "
            "tokens than any context is refused before it is sent; 0: not known, nothing is."
        ),
        parse=parsers.token_bytes,
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
        parse=parsers.speeds,
    ),
    Setting(
        field="decode_speeds",
        variable="HEARTCODE_DECODE_SPEEDS",
        default="0",
        unit="tokens/s, separated by commas",
        sentence="How fast each backend generates for one conversation; likewise.",
        parse=parsers.speeds,
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
        parse=parsers.one_of(*_POLICIES),
    ),
    Setting(
        field="queue_length",
        variable="HEARTCODE_QUEUE_LENGTH",
        default="64",
        unit="requests",
        sentence="How many requests may wait for a slot; a further one is answered with 429.",
        parse=parsers.whole_number(0, 100_000),
    ),
    Setting(
        field="queue_wait_s",
        variable="HEARTCODE_QUEUE_WAIT_S",
        default="120",
        unit="seconds",
        sentence="How long a request may wait for a slot; then it is answered with 504.",
        parse=parsers.seconds(86400),
    ),
    Setting(
        field="listen",
        variable="HEARTCODE_LISTEN",
        default="0.0.0.0",  # noqa: S104 - the gateway is another host
        unit="IP address",
        sentence="Where the proxy and the exporter listen.",
        parse=parsers.address,
    ),
    Setting(
        field="port",
        variable="PORT",
        default="8080",
        unit="TCP port",
        sentence="The port of the proxy.",
        parse=parsers.whole_number(1, 65535),
    ),
    Setting(
        field="metrics_port",
        variable="METRICS_PORT",
        default="9091",
        unit="TCP port",
        sentence="The port of the exporter.",
        parse=parsers.whole_number(1, 65535),
    ),
    Setting(
        field="models",
        variable="HEARTCODE_MODEL",
        default="",
        unit="names, separated by commas",
        sentence=(
            "The model of all backends, or one for each of them in their order; the first is the "
            "default. Further names of a model follow it after `|`. A backend that calls its model "
            "something else (llama-server's --alias, or its file's name) gets no requests. Empty: "
            "any `model` in a request is served by any backend."
        ),
        parse=parsers.models,
    ),
    Setting(
        field="connect_timeout_s",
        variable="HEARTCODE_CONNECT_TIMEOUT_S",
        default="2",
        unit="seconds",
        sentence="How long a backend may take to accept a connection.",
        parse=parsers.seconds(60),
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
        parse=parsers.seconds(86400),
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
        parse=parsers.seconds(86400),
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
        parse=parsers.seconds(86400),
    ),
    Setting(
        field="ping_interval_s",
        variable="HEARTCODE_PING_INTERVAL_S",
        default="15",
        unit="seconds",
        sentence="How often the client of a stream gets a sign of life while no token is there.",
        parse=parsers.seconds(3600),
    ),
    Setting(
        field="client_stall_timeout_s",
        variable="HEARTCODE_CLIENT_STALL_TIMEOUT_S",
        default="60",
        unit="seconds",
        sentence=(
            "How long the client of a stream may take nothing of it before it counts as gone, and "
            "how long a request's body may take to arrive; then it is answered with 408."
        ),
        parse=parsers.seconds(86400),
    ),
    Setting(
        field="max_moves",
        variable="HEARTCODE_MAX_MOVES",
        default="3",
        unit="backends",
        sentence="How many further backends a request may be moved to when one fails.",
        parse=parsers.whole_number(0, 100),
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
        parse=parsers.seconds(60),
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
        parse=parsers.seconds(3600),
    ),
    Setting(
        field="max_connections",
        variable="HEARTCODE_MAX_CONNECTIONS",
        default="4096",
        unit="connections",
        sentence="How many clients may be connected; further ones wait until one has left.",
        # heartcode.service: LimitNOFILE=16384, and a stream has two sockets.
        parse=parsers.whole_number(16, 8000),
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
        parse=parsers.seconds(3600),
    ),
    Setting(
        field="probe_idle_s",
        variable="HEARTCODE_PROBE_IDLE_S",
        default="300",
        unit="seconds",
        sentence="How long a backend may be idle before a probe lets it generate a token.",
        parse=parsers.seconds(86400),
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
        parse=parsers.seconds(3600),
    ),
    Setting(
        field="probe_pause_max_s",
        variable="HEARTCODE_PROBE_PAUSE_MAX_S",
        default="10",
        unit="seconds",
        sentence="The longest pause between two probes of a backend that fails.",
        parse=parsers.seconds(3600),
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
        parse=parsers.seconds(86400),
    ),
    Setting(
        field="max_body_bytes",
        variable="HEARTCODE_MAX_BODY_BYTES",
        default=str(10 * 1024 * 1024),
        unit="bytes",
        sentence="The largest request body; a larger one is answered with 413.",
        parse=parsers.whole_number(1024, 1024 * 1024 * 1024),
    ),
    Setting(
        field="max_request_line_bytes",
        variable="HEARTCODE_MAX_REQUEST_LINE_BYTES",
        default="4094",
        unit="bytes",
        sentence="The longest first line (method and URL) of a request; a longer one gets 414.",
        parse=parsers.whole_number(256, 8190),
    ),
    Setting(
        field="max_headers",
        variable="HEARTCODE_MAX_HEADERS",
        default="100",
        unit="headers",
        sentence="How many headers a request may have; more get 431.",
        parse=parsers.whole_number(16, 1000),
    ),
    Setting(
        field="max_header_bytes",
        variable="HEARTCODE_MAX_HEADER_BYTES",
        default="8190",
        unit="bytes",
        sentence="The longest header of a request; a longer one gets 431.",
        parse=parsers.whole_number(256, 65536),
    ),
    Setting(
        field="max_json_depth",
        variable="HEARTCODE_MAX_JSON_DEPTH",
        default="100",
        unit="levels",
        sentence="How deeply a request's JSON may be nested; a deeper one is answered with 400.",
        parse=parsers.whole_number(2, 500),
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
        parse=parsers.whole_number(1, 2**31 - 1),
    ),
    Setting(
        field="rig_addresses",
        variable="HEARTCODE_RIG_ADDRESSES",
        default="",
        unit="IP addresses, separated by commas",
        sentence=(
            "On a gateway alone, whose backends are rigs: the addresses of this host at which they "
            "are asked for, in the order of HEARTCODE_BACKENDS. Empty: the backends are "
            "llama-servers."
        ),
        parse=parsers.addresses,
    ),
    Setting(
        field="rig_models",
        variable="HEARTCODE_RIG_MODELS",
        default="",
        unit="names, separated by commas",
        sentence=(
            "On a gateway: the models of each rig, with `|` between several, in the order of "
            "HEARTCODE_BACKENDS; a stream goes on at a rig that has its model. Empty: all have all."
        ),
        parse=parsers.names_of_each,
    ),
    Setting(
        field="rig_silence_s",
        variable="HEARTCODE_RIG_SILENCE_S",
        default="3",
        unit="seconds",
        sentence=(
            "On a gateway: how long a rig that streams may give no sign of life before another one "
            "goes on; it is asked for three signs in that time."
        ),
        parse=parsers.seconds(60),
    ),
    Setting(
        field="warm_mib",
        variable="HEARTCODE_WARM_MIB",
        default="0",
        unit="MiB",
        sentence=(
            "How much all conversations that are kept in files may take together (docs/warm.md); "
            "0: none is kept."
        ),
        parse=parsers.whole_number(0, 100_000_000),
    ),
    Setting(
        field="warm_dir",
        variable="HEARTCODE_WARM_DIR",
        default="/var/cache/heartcode/conversations",
        unit="directory",
        sentence=(
            "Where these files lie, with the prompts and answers in them, for this user alone; the "
            "--slot-save-path of every llama-server."
        ),
        parse=parsers.directory,
    ),
    Setting(
        field="warm_idle_s",
        variable="HEARTCODE_WARM_IDLE_S",
        default="15",
        unit="seconds",
        sentence="How long a conversation must be idle before it is saved.",
        parse=parsers.seconds(86400),
    ),
    Setting(
        field="warm_keep_s",
        variable="HEARTCODE_WARM_KEEP_S",
        default="259200",
        unit="seconds",
        sentence="After how long without use a conversation's file is deleted.",
        parse=parsers.seconds(365 * 86400),
    ),
    Setting(
        field="warm_min_tokens",
        variable="HEARTCODE_WARM_MIN_TOKENS",
        default="512",
        unit="tokens",
        sentence="From how many tokens on a conversation is saved; shorter ones are read again.",
        parse=parsers.whole_number(1, 1_000_000),
    ),
    Setting(
        field="learnt_dir",
        variable="HEARTCODE_LEARNT_DIR",
        default="/var/cache/heartcode/learnt",
        unit="directory",
        sentence=(
            "Where what was learnt of the backends' speed outlives the proxy (docs/warm.md); where "
            "it does not exist, it is learnt anew after each start."
        ),
        parse=parsers.directory,
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
        parse=parsers.directory,
    ),
    Setting(
        field="metrics_dir",
        variable="HEARTCODE_METRICS_DIR",
        default="/run/heartcode/metrics",
        unit="directory",
        sentence="Where the proxy keeps its metrics for the exporter.",
        parse=parsers.directory,
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
        parse=parsers.whole_number(1, 80),
    ),
    Setting(
        field="log_level",
        variable="HEARTCODE_LOG_LEVEL",
        default="info",
        unit="level",
        sentence="debug, info, warning or error; debug also logs successful health checks.",
        parse=parsers.log_level,
    ),
)

#: Fields that hold a number for each backend, or one for all of them.
PER_BACKEND = ("slots", "token_bytes", "prompt_speeds", "decode_speeds")
