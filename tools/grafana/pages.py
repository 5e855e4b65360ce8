"""What is on the dashboards. Units are Grafana's names of them."""

from __future__ import annotations

from tools.grafana.model import Dashboard, Panel, Query, Variable

_RIG_LINK = ("Show the rig", "/d/heartcode-rig?var-rig=${__data.fields.Rig}&${__url_time_range}")
_TTFT = "inference_time_to_first_token_seconds"


def _stat(
    title: str,
    description: str,
    expr: str,
    *,
    unit: str = "short",
    thresholds: tuple[float, float] | None = None,
    empty_until: str = "",
) -> Panel:
    return Panel(
        title=title,
        description=description,
        queries=[Query(expr)],
        unit=unit,
        kind="stat",
        width=3,
        height=4,
        thresholds=thresholds,
        empty_until=empty_until,
    )


#: The cards that are chosen on the rig's dashboard, as labels of a selector.
_CARD = 'rig="$rig", gpu=~"$gpu"'
_CLIENT_REQUESTS = "inference_client_requests_total"
_CLIENT_TOKENS = "inference_client_tokens_total"


def _by_client(counter: str, label: str = "") -> str:
    """Return the query for a counter's rate by client, of those series alone that have `label`."""
    labels = ", ".join(filter(None, ('rig=~"$rig", client=~"$client"', label)))
    return f"sum by (client) (rate({counter}{{{labels}}}[$__rate_interval]))"


FLEET = Dashboard(
    uid="heartcode-fleet",
    title="HeartCode / Fleet",
    description="Whether all works, at a glance: one row for each rig.",
    panels=[
        _stat(
            "Rigs down",
            "Rigs and helpers that Prometheus cannot scrape.",
            'count(up{job=~"heartcode|helper"} == 0) or vector(0)',
            thresholds=(1, 2),
        ),
        _stat(
            "Cards gone",
            "Cards of the inventory that do not answer.",
            "count(gpu_up == 0) or vector(0)",
            thresholds=(1, 3),
        ),
        _stat(
            "Alerts",
            "Alerts that fire now; the table below names them.",
            'count(ALERTS{alertstate="firing"}) or vector(0)',
            thresholds=(1, 3),
        ),
        _stat(
            "Tokens/s",
            "Tokens that the fleet generates, over 5 minutes.",
            'sum(fleet:inference_tokens:rate5m{kind="completion"})',
            unit="short",
        ),
        _stat(
            "First token, 95 %",
            "19 of 20 answers begin within this time, the wait in the queue included.",
            'fleet:inference_time_to_first_token_seconds:quantile5m{quantile="0.95"}',
            unit="s",
            thresholds=(10, 20),
        ),
        _stat(
            "Waiting",
            "Requests that wait for a slot.",
            "sum(inference_queue_depth)",
            thresholds=(1, 20),
        ),
        _stat("Power", "What all cards draw.", "sum(rig:gpu_power_watts:sum)", unit="watt"),
        _stat(
            "Tokens per joule",
            "Generated tokens for each watt second of the cards.",
            "fleet:inference_completion_tokens_per_joule:rate5m",
        ),
        Panel(
            title="Rigs",
            description="One row for each rig and helper. A click on its name shows its cards.",
            kind="table",
            width=24,
            queries=[
                Query('max by (rig) (up{job=~"heartcode|helper"})'),
                Query("sum by (rig) (gpu_up)"),
                Query("count by (rig) (gpu_up)"),
                Query('sum by (rig) (rig:inference_tokens:rate5m{kind="completion"})'),
                Query(
                    "max by (rig)"
                    ' (rig:inference_time_to_first_token_seconds:quantile5m{quantile="0.95"})'
                ),
                Query("sum by (rig) (inference_queue_depth)"),
                Query("max by (rig) (rig:gpu_power_watts:sum)"),
                Query("max by (rig) (gpu_temperature_celsius)"),
                Query("max by (rig) (rig:inference_errors:ratio_rate5m)"),
            ],
            columns={
                "rig": "Rig",
                "A": "Up",
                "B": "Cards up",
                "C": "Cards",
                "D": "Tokens/s",
                "E": "First token, 95 %",
                "F": "Waiting",
                "G": "Power",
                "H": "Hottest",
                "I": "Errors",
            },
            units={
                "First token, 95 %": "s",
                "Power": "watt",
                "Hottest": "celsius",
                "Errors": "percentunit",
            },
            link=_RIG_LINK,
        ),
        Panel(
            title="Alerts that fire",
            description="What each means and what to do stands in docs/runbooks.md.",
            kind="table",
            width=24,
            height=6,
            queries=[
                Query(
                    "max by (alertname, severity, rig, host, gpu, backend)"
                    ' (ALERTS{alertstate="firing"})'
                )
            ],
            columns={
                "severity": "Severity",
                "alertname": "Alert",
                "rig": "Rig",
                "host": "Host",
                "gpu": "Card",
                "backend": "Backend",
            },
            empty_until="an alert fires",
        ),
        Panel(
            title="Tokens/s by rig",
            description="Tokens that are generated.",
            queries=[Query('rig:inference_tokens:rate5m{kind="completion"}', "{{rig}}")],
        ),
        Panel(
            title="Time to the first token",
            description="Half, and 19 of 20 of the answers, begin within this time.",
            unit="s",
            queries=[
                Query("fleet:inference_time_to_first_token_seconds:quantile5m", "{{quantile}}")
            ],
        ),
        Panel(
            title="Waiting requests by rig",
            description="Requests that wait for a slot.",
            queries=[Query("inference_queue_depth", "{{rig}}")],
        ),
        Panel(
            title="Power by rig",
            description="What the cards draw; the hosts draw more.",
            unit="watt",
            queries=[Query("rig:gpu_power_watts:sum", "{{rig}}")],
        ),
    ],
)

RIG = Dashboard(
    uid="heartcode-rig",
    title="HeartCode / Rig and cards",
    description="Each card of a rig over time.",
    variables=[
        Variable(name="rig", label="Rig", metric="heartcode_build_info", multi=False),
        Variable(name="gpu", label="Card", metric='gpu_info{rig="$rig"}'),
    ],
    panels=[
        Panel(
            title="Cards",
            description="What each card is, and which backend runs on it.",
            kind="table",
            width=24,
            height=6,
            queries=[
                Query('max by (gpu, uuid, name, backend, pci_bus_id) (gpu_info{rig="$rig"})'),
                Query('max by (gpu) (gpu_up{rig="$rig"})'),
                Query(
                    'max by (gpu) (gpu_memory_used_bytes{rig="$rig"}'
                    ' / gpu_memory_total_bytes{rig="$rig"})'
                ),
                Query('max by (gpu) (gpu_temperature_celsius{rig="$rig"})'),
                Query('max by (gpu) (gpu_power_watts{rig="$rig"})'),
            ],
            columns={
                "gpu": "Card",
                "B": "Up",
                "name": "Model",
                "backend": "Backend",
                "C": "Memory",
                "D": "Temperature",
                "E": "Power",
                "pci_bus_id": "PCI address",
                "uuid": "UUID",
            },
            units={"Memory": "percentunit", "Temperature": "celsius", "Power": "watt"},
        ),
        Panel(
            title="Cards that answer",
            description="Whether the driver answers for the card.",
            kind="state-timeline",
            queries=[Query(f"gpu_up{{{_CARD}}}", "card {{gpu}}")],
        ),
        Panel(
            title="Backends that generate",
            description="Whether the backend's last request or probe brought a token.",
            kind="state-timeline",
            queries=[Query('backend_up{rig="$rig"}', "{{backend}}")],
        ),
        Panel(
            title="Tokens/s by backend",
            description="What each card generates, by its llama-server's own counter.",
            queries=[Query('backend:llama_completion_tokens:rate5m{rig="$rig"}', "{{backend}}")],
        ),
        Panel(
            title="Temperature",
            description="Of the chip; the limit is where the first card slows down by itself.",
            unit="celsius",
            queries=[
                Query(f"gpu_temperature_celsius{{{_CARD}}}", "card {{gpu}}"),
                Query(
                    f'min(gpu_temperature_limit_celsius{{{_CARD}, limit="slowdown"}})',
                    "limit",
                ),
            ],
        ),
        Panel(
            title="Power",
            description="What the cards draw, and what they may draw.",
            unit="watt",
            queries=[
                Query(f"gpu_power_watts{{{_CARD}}}", "card {{gpu}}"),
                Query(f"gpu_power_limit_watts{{{_CARD}}}", "limit of card {{gpu}}"),
            ],
        ),
        Panel(
            title="Utilization",
            description="Share of the time in which the card computed.",
            unit="percentunit",
            maximum=1,
            queries=[Query(f"gpu_utilization_ratio{{{_CARD}}}", "card {{gpu}}")],
        ),
        Panel(
            title="Memory",
            description="Share of the card's memory in use; a plan takes up to 99 %,"
            " above 99.05 % an alert fires.",
            unit="percentunit",
            maximum=1,
            queries=[
                Query(
                    f"gpu_memory_used_bytes{{{_CARD}}} / gpu_memory_total_bytes{{{_CARD}}}",
                    "card {{gpu}}",
                )
            ],
        ),
        Panel(
            title="Fan",
            description="Speed that the fan is told to have. Many mining cards do not tell.",
            unit="percentunit",
            maximum=1,
            queries=[Query(f"gpu_fan_speed_ratio{{{_CARD}}}", "card {{gpu}}")],
        ),
        Panel(
            title="Clock",
            description="Of the multiprocessors.",
            unit="hertz",
            queries=[Query(f'gpu_clock_hertz{{{_CARD}, clock="sm"}}', "card {{gpu}}")],
        ),
        Panel(
            title="Held back",
            description="Why a card computes slower than it could. A power cap is a setting.",
            unit="percentunit",
            maximum=1,
            queries=[
                Query(
                    f"avg_over_time(gpu_throttled{{{_CARD}}}[$__rate_interval]) > 0",
                    "card {{gpu}}: {{reason}}",
                )
            ],
            empty_until="a card is throttled",
        ),
        Panel(
            title="PCIe lanes",
            description="Of the link now. On a riser it is 1.",
            queries=[Query(f"gpu_pcie_link_width{{{_CARD}}}", "card {{gpu}}")],
        ),
        Panel(
            title="PCIe replays",
            description="Packets a second that had to be sent again; many mean a bad riser.",
            unit="pps",
            queries=[
                Query(
                    f"rate(gpu_pcie_replays_total{{{_CARD}}}[$__rate_interval])",
                    "card {{gpu}}",
                )
            ],
        ),
        Panel(
            title="Xids",
            description="Errors of the cards since the exporter started; see docs/runbooks.md.",
            queries=[Query(f"gpu_xid_errors_total{{{_CARD}}}", "card {{gpu}}: Xid {{xid}}")],
            empty_until="a card reports an Xid",
        ),
        Panel(
            title="Age of the values",
            description="How long ago the driver last told of the card; it grows while it hangs.",
            unit="s",
            queries=[Query(f"gpu_reading_age_seconds{{{_CARD}}}", "card {{gpu}}")],
        ),
        Panel(
            title="Failed readings",
            description="Readings a second that failed, by reason.",
            unit="cps",
            queries=[
                Query(
                    f"sum by (gpu, reason) (rate(gpu_read_errors_total{{{_CARD}}}"
                    "[$__rate_interval]))",
                    "card {{gpu}}: {{reason}}",
                )
            ],
        ),
    ],
)

REQUESTS = Dashboard(
    uid="heartcode-requests",
    title="HeartCode / Requests",
    description="Where the time of requests goes.",
    variables=[
        Variable(name="rig", label="Rig", metric="heartcode_build_info"),
        Variable(name="model", label="Model", metric="inference_tokens_total"),
        # Where nobody is asked for a key clients have no name.
        Variable(name="client", label="Client", metric=_CLIENT_REQUESTS, every=".*"),
    ],
    panels=[
        Panel(
            title="Requests by status",
            description="Answered requests a second.",
            unit="reqps",
            queries=[
                Query(
                    'sum by (status) (rate(inference_requests_total{rig=~"$rig"}'
                    "[$__rate_interval]))",
                    "{{status}}",
                )
            ],
        ),
        Panel(
            title="How requests ended",
            description="Completed, cancelled by the client, rejected, failed, left to others.",
            unit="reqps",
            queries=[
                Query(
                    'sum by (outcome) (rate(inference_requests_total{rig=~"$rig"}'
                    "[$__rate_interval]))",
                    "{{outcome}}",
                )
            ],
        ),
        Panel(
            title="Error ratio",
            description="Share of the requests that failed: with 5xx, or amid a stream.",
            unit="percentunit",
            queries=[Query('rig:inference_errors:ratio_rate5m{rig=~"$rig"}', "{{rig}}")],
        ),
        Panel(
            title="Where the time goes",
            description="Seconds in the queue for each request; for prompts and for generating,"
            " seconds that cards spend in each second.",
            unit="s",
            queries=[
                Query(
                    'sum(rate(inference_queue_seconds_sum{rig=~"$rig"}[$__rate_interval]))'
                    ' / (sum(rate(inference_queue_seconds_count{rig=~"$rig"}'
                    "[$__rate_interval])) > 0)",
                    "queue, for each request",
                ),
                Query(
                    'sum(rate(llama_prompt_seconds_total{rig=~"$rig"}[$__rate_interval]))',
                    "prompts",
                ),
                Query(
                    'sum(rate(llama_completion_seconds_total{rig=~"$rig"}[$__rate_interval]))',
                    "generating",
                ),
            ],
        ),
        Panel(
            title="Time to the first token",
            description="With the wait in the queue: half, and 19 of 20 of the answers.",
            unit="s",
            queries=[
                Query(
                    f"histogram_quantile({quantile}, sum by (le) (rate({_TTFT}_bucket"
                    '{rig=~"$rig", model=~"$model"}[$__rate_interval])))',
                    str(quantile),
                )
                for quantile in (0.5, 0.95)
            ],
        ),
        Panel(
            title="Time between two tokens",
            description="As clients see it: half, and 19 of 20 of the tokens.",
            unit="s",
            queries=[
                Query(
                    f"histogram_quantile({quantile}, sum by (le)"
                    " (rate(inference_inter_token_seconds_bucket"
                    '{rig=~"$rig", model=~"$model"}[$__rate_interval])))',
                    str(quantile),
                )
                for quantile in (0.5, 0.95)
            ],
        ),
        Panel(
            title="Whole answers",
            description="19 of 20 take at most this long, by endpoint.",
            unit="s",
            queries=[
                Query(
                    "histogram_quantile(0.95, sum by (le, endpoint)"
                    ' (rate(inference_duration_seconds_bucket{rig=~"$rig"}[$__rate_interval])))',
                    "{{endpoint}}",
                )
            ],
        ),
        Panel(
            title="Tokens/s by model",
            description="Tokens that are generated.",
            queries=[
                Query(
                    "sum by (model) (rate(inference_tokens_total"
                    '{rig=~"$rig", model=~"$model", kind="completion"}[$__rate_interval]))',
                    "{{model}}",
                )
            ],
        ),
        Panel(
            title="Prompt tokens/s",
            description="All of them, those that were in a cache, and those that a file has brought"
            " there.",
            queries=[
                Query(
                    "sum by (kind) (rate(inference_tokens_total"
                    '{rig=~"$rig", model=~"$model", kind=~"prompt|cached|restored"}'
                    "[$__rate_interval]))",
                    "{{kind}}",
                )
            ],
        ),
        Panel(
            title="Conversations in files",
            description="What they take of the rigs' disks, where"
            " llama_server_conversations_mib is not 0.",
            unit="bytes",
            queries=[Query('warm_bytes{rig=~"$rig"}', "{{rig}}")],
        ),
        Panel(
            title="Conversations saved and restored",
            description="By what came of it: all but saved and restored have been given up.",
            unit="cps",
            queries=[
                Query(
                    f'sum by (result) (rate({name}{{rig=~"$rig"}}[$__rate_interval]))',
                    "{{result}}",
                )
                for name in ("warm_saves_total", "warm_restores_total")
            ],
        ),
        Panel(
            title="Conversations in files, how many",
            description="Each is the latest turn of one.",
            queries=[Query('warm_conversations{rig=~"$rig"}', "{{rig}}")],
        ),
        Panel(
            title="Requests by client",
            description="Requests a second that cards worked on, under the names of the gateway's"
            " API keys. What a rig rejects goes to another one.",
            unit="reqps",
            queries=[Query(_by_client(_CLIENT_REQUESTS, 'outcome!="rejected"'), "{{client}}")],
        ),
        Panel(
            title="Not completed, by client",
            description="Requests a second that the client left, or that failed.",
            unit="reqps",
            queries=[
                Query(
                    _by_client(_CLIENT_REQUESTS, 'outcome!~"completed|rejected"'),
                    "{{client}}",
                )
            ],
            empty_until="a client leaves, or a request fails",
        ),
        Panel(
            title="Tokens/s by client",
            description="Tokens that are generated.",
            queries=[Query(_by_client(_CLIENT_TOKENS, 'kind="completion"'), "{{client}}")],
        ),
        Panel(
            title="Prompt tokens/s by client",
            description="Tokens of prompts, and how many of them came from the cache.",
            queries=[
                Query(_by_client(_CLIENT_TOKENS, 'kind="prompt"'), "{{client}}"),
                Query(_by_client(_CLIENT_TOKENS, 'kind="cached"'), "{{client}}, cached"),
            ],
        ),
        Panel(
            title="Prompt tokens from the cache",
            description="Share of the prompts' tokens that did not have to be computed again.",
            unit="percentunit",
            maximum=1,
            queries=[Query('rig:inference_cache_hit:ratio_rate5m{rig=~"$rig"}', "{{rig}}")],
        ),
        Panel(
            title="Running and waiting",
            description="Requests that are served now, and those of them that wait for a slot.",
            queries=[
                Query('sum(active_requests{rig=~"$rig"})', "running"),
                Query('sum(inference_queue_depth{rig=~"$rig"})', "waiting"),
                Query('sum(backend_slots{rig=~"$rig"})', "slots"),
            ],
        ),
        Panel(
            title="Moved to another backend",
            description="Requests since the proxies' counters began, by what was wrong.",
            queries=[Query('sum by (reason) (inference_retries_total{rig=~"$rig"})', "{{reason}}")],
            empty_until="a backend fails under a request",
        ),
        Panel(
            title="Resumed on another backend",
            description="Streams since the proxies' counters began, by what was wrong.",
            queries=[Query('sum by (reason) (inference_resumes_total{rig=~"$rig"})', "{{reason}}")],
            empty_until="a backend fails under a stream",
        ),
    ],
)

_DISKS = '{host=~"$host", fstype!~"tmpfs|ramfs"}'

HOSTS = Dashboard(
    uid="heartcode-hosts",
    title="HeartCode / Hosts",
    description="Rigs and gateways as machines, by the node exporter.",
    variables=[Variable(name="host", label="Host", metric="node_uname_info")],
    panels=[
        Panel(
            title="CPU",
            description="Share of all cores that is busy.",
            unit="percentunit",
            maximum=1,
            queries=[
                Query(
                    "1 - avg by (host) (rate(node_cpu_seconds_total"
                    '{host=~"$host", mode="idle"}[$__rate_interval]))',
                    "{{host}}",
                )
            ],
        ),
        Panel(
            title="Memory that is free",
            description="What programs can still have, with what the page cache gives up.",
            unit="bytes",
            queries=[Query('node_memory_MemAvailable_bytes{host=~"$host"}', "{{host}}")],
        ),
        Panel(
            title="Disk space that is free",
            description="Share of each file system.",
            unit="percentunit",
            maximum=1,
            queries=[
                Query(
                    "min by (host, mountpoint) (node_filesystem_avail_bytes"
                    f"{_DISKS} / node_filesystem_size_bytes{_DISKS})",
                    "{{host}} {{mountpoint}}",
                )
            ],
        ),
        Panel(
            title="Network",
            description="Bytes a second, without loopback.",
            unit="Bps",
            queries=[
                Query(
                    "sum by (host) (rate(node_network_receive_bytes_total"
                    '{host=~"$host", device!="lo"}[$__rate_interval]))',
                    "{{host}} received",
                ),
                Query(
                    "sum by (host) (rate(node_network_transmit_bytes_total"
                    '{host=~"$host", device!="lo"}[$__rate_interval]))',
                    "{{host}} sent",
                ),
            ],
        ),
        Panel(
            title="Killed for lack of memory",
            description="Processes that the kernel has killed, since it booted.",
            queries=[Query('node_vmstat_oom_kill{host=~"$host"}', "{{host}}")],
        ),
        Panel(
            title="Running since",
            description="Time since the host booted.",
            unit="s",
            queries=[
                Query('time() - node_boot_time_seconds{host=~"$host"}', "{{host}}"),
            ],
        ),
    ],
)

DASHBOARDS = (FLEET, RIG, REQUESTS, HOSTS)
