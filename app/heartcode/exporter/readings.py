"""The metrics that the exporter reads. docs/reference/metrics.md is written from here."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A metric that the exporter reads, and makes anew at each scrape."""

    name: str
    text: str
    labels: tuple[str, ...] = ()

    @property
    def type(self) -> str:
        """The type, as Prometheus calls it."""
        return "counter" if self.name.endswith("_total") else "gauge"

    def family(self) -> CounterMetricFamily | GaugeMetricFamily:
        """Return it without samples."""
        kind = CounterMetricFamily if self.type == "counter" else GaugeMetricFamily
        return kind(self.name, self.text, labels=self.labels)


BUILD_INFO = Reading(
    name="heartcode_build_info", text="The version that runs.", labels=("version",)
)
BACKEND_INFO = Reading(
    name="backend_info",
    text="What the backend serves: the model's id, empty where no name is set.",
    labels=("backend", "model"),
)
BACKEND_QUARANTINED = Reading(
    name="backend_quarantined",
    text="1 if a card of the backend is gone, so that its llama-server is not started.",
    labels=("backend",),
)

#: What names a card: its backend's number (of a group with its place in that, as in 1.0), its UUID
#: and its backend, as in the `backend_` metrics.
CARD = ("gpu", "uuid", "backend")
#: Why a card could not be read.
GPU_READ_ERROR_REASONS = {
    "lost": "the driver says that it has fallen off the bus",
    "missing": "the driver does not know it",
    "driver": "there is no driver, or it does not work",
    "hang": "the driver did not answer",
    "died": "the process that reads it ended",
    "field": "one field answered with an error",
}

GPU_UP = Reading(
    name="gpu_up",
    text="1 if the card answers; 0 if it is gone, hangs or was never there.",
    labels=CARD,
)
GPU_QUARANTINED = Reading(
    name="gpu_quarantined",
    text="1 if this is the card for which its backend is not started.",
    labels=CARD,
)
GPU_READING_AGE = Reading(
    name="gpu_reading_age_seconds",
    text="How old the card's values are; it grows while the driver does not answer.",
    labels=CARD,
)
GPU_READ_ERRORS = Reading(
    name="gpu_read_errors_total",
    text="How often the card, or one of its fields, could not be read.",
    labels=(*CARD, "reason"),
)
GPU_XID_ERRORS = Reading(
    name="gpu_xid_errors_total",
    text="Errors of the card that the driver has reported since the exporter started.",
    labels=(*CARD, "xid"),
)
GPU_INFO = Reading(
    name="gpu_info",
    text="What the card is, and which backend runs on it.",
    labels=(*CARD, "name", "pci_bus_id", "vbios", "driver"),
)
#: By name: what a card itself tells. A card leaves out what it does not support.
GPU_FIELDS = {
    reading.name: reading
    for reading in (
        Reading(
            name="gpu_memory_used_bytes",
            text="Memory in use, with what the driver keeps for itself.",
            labels=CARD,
        ),
        Reading(name="gpu_memory_total_bytes", text="Memory on the card.", labels=CARD),
        Reading(name="gpu_temperature_celsius", text="Temperature of the chip.", labels=CARD),
        Reading(
            name="gpu_temperature_limit_celsius",
            text="Temperature at which the card slows down, or is switched off.",
            labels=(*CARD, "limit"),
        ),
        Reading(name="gpu_power_watts", text="Power that the card draws.", labels=CARD),
        Reading(
            name="gpu_power_limit_watts",
            text="Power that the card may draw.",
            labels=CARD,
        ),
        Reading(
            name="gpu_utilization_ratio",
            text="Share of the last moments in which the card computed, 0 to 1.",
            labels=CARD,
        ),
        Reading(
            name="gpu_fan_speed_ratio",
            text="Speed that the fan is told to have, 0 to 1.",
            labels=CARD,
        ),
        Reading(name="gpu_clock_hertz", text="Clock rate.", labels=(*CARD, "clock")),
        Reading(
            name="gpu_clock_max_hertz",
            text="Highest clock rate.",
            labels=(*CARD, "clock"),
        ),
        Reading(
            name="gpu_throttled",
            text="1 if the card is held back for this reason.",
            labels=(*CARD, "reason"),
        ),
        Reading(
            name="gpu_pcie_link_generation",
            text="PCIe generation of the link now; idle cards lower it.",
            labels=CARD,
        ),
        Reading(
            name="gpu_pcie_link_generation_max",
            text="Highest PCIe generation of card and slot.",
            labels=CARD,
        ),
        Reading(name="gpu_pcie_link_width", text="PCIe lanes of the link now.", labels=CARD),
        Reading(
            name="gpu_pcie_link_width_max",
            text="Most PCIe lanes of card and slot.",
            labels=CARD,
        ),
        Reading(
            name="gpu_pcie_replays_total",
            text="Packets that had to be sent again; many mean a bad riser.",
            labels=CARD,
        ),
    )
}

#: By llama-server's own name (tools/server/server-task.cpp): its counters, one for each backend.
LLAMA_COUNTERS = {
    theirs: Reading(name=name, text=f"llama-server: {text}", labels=("backend",))
    for theirs, name, text in (
        (
            "prompt_tokens_total",
            "llama_prompt_tokens_total",
            "tokens of prompts that were evaluated, without those from the cache.",
        ),
        (
            "prompt_tokens_cached_total",
            "llama_prompt_cached_tokens_total",
            "tokens of prompts that came from the cache.",
        ),
        (
            "prompt_seconds_total",
            "llama_prompt_seconds_total",
            "time spent on evaluating prompts.",
        ),
        (
            "tokens_predicted_total",
            "llama_completion_tokens_total",
            "tokens that were generated.",
        ),
        (
            "tokens_predicted_seconds_total",
            "llama_completion_seconds_total",
            "time spent on generating tokens.",
        ),
        ("n_decode_total", "llama_decodes_total", "batches that were computed."),
        (
            "n_tokens_max",
            "llama_sequence_tokens_max",
            "the longest sequence so far, in tokens.",
        ),
        ("requests_processing", "llama_requests_processing", "slots that compute now."),
        ("requests_deferred", "llama_requests_deferred", "requests that wait for a slot."),
    )
}

LLAMA_BUILD_INFO = Reading(
    name="llama_build_info",
    text="llama-server: the version of llama.cpp that it says it is, as b11312-0c1e57098.",
    labels=("backend", "version"),
)

#: All that the exporter reads, in the order of the reference.
READINGS = (
    BUILD_INFO,
    BACKEND_INFO,
    BACKEND_QUARANTINED,
    GPU_QUARANTINED,
    GPU_UP,
    GPU_INFO,
    *GPU_FIELDS.values(),
    GPU_XID_ERRORS,
    GPU_READING_AGE,
    GPU_READ_ERRORS,
    LLAMA_BUILD_INFO,
    *LLAMA_COUNTERS.values(),
)

#: What a gateway measures of itself, and its node exporter tells: `heartcode-shown-certificate`
#: and heartcode_models/files/measure.py write it. A contract test compares.
MEASURED = (
    Reading(
        name="gateway_tls_certificate_not_before_timestamp_seconds",
        text="From when on the certificate lasts that clients are shown.",
    ),
    Reading(
        name="gateway_tls_certificate_not_after_timestamp_seconds",
        text="When the certificate ends that clients are shown.",
    ),
    Reading(
        name="model_mirror_file_up",
        text="1 if the mirror has the file as the rigs need it, by size and SHA-256.",
        labels=("file",),
    ),
    Reading(
        name="model_mirror_file_size_bytes",
        text="Size that the file has in the mirror; 0 if it is not there.",
        labels=("file",),
    ),
    Reading(
        name="model_mirror_file_expected_size_bytes",
        text="Size that the file must have.",
        labels=("file",),
    ),
)
