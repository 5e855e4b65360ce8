"""What the proxy counts. docs/reference/metrics.md is written from here.

The exporter's process reads it from files, see `metrics_files`; how they are written has to be
settled (`metrics_files.use`) before a worker imports this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import prometheus_client


class Counter(prometheus_client.Counter):
    """One that finds its labels at once: prometheus_client would check them each time."""

    labels = cache(prometheus_client.Counter.labels)

    def inc(self, amount: float = 1, exemplar: dict[str, str] | None = None) -> None:  # noqa: ARG002 - there are none in files
        """Count, unless it is nothing: most requests have no tokens from a cache."""
        if amount:
            self._value.inc(amount)


class Gauge(prometheus_client.Gauge):
    """The same for a gauge."""

    labels = cache(prometheus_client.Gauge.labels)


class Histogram(prometheus_client.Histogram):
    """The same for a histogram."""

    labels = cache(prometheus_client.Histogram.labels)


class CountedHistogram(Histogram):
    """Takes what was counted elsewhere: observing each token would cost too much."""

    def observe_counted(self, counts: Sequence[int], total: float) -> None:
        """Observe `counts[i]` values that fall into the i-th bucket, `total` in sum."""
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


REQUESTS = Counter(
    "inference_requests_total",
    "Inference requests by HTTP status and by how they ended: completed, disconnected, rejected, "
    "failed (a broken stream has the status 200), or turned_away to another rig.",
    ["endpoint", "status", "outcome"],
)
# Pascal cards: a cached prompt and a short answer take a second, a long answer takes minutes.
DURATION = Histogram(
    "inference_duration_seconds",
    "Time from the request to the last byte of an answer that came from a backend.",
    ["endpoint"],
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 45, 60, 90, 120, 180, 300, 600),
)
TIME_TO_FIRST_TOKEN = Histogram(
    "inference_time_to_first_token_seconds",
    "Time from the request, its wait in the queue included, to the first token.",
    ["model"],
    buckets=(0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600),
)
# One P104 generates up to 65 tokens a second for one conversation, a shared P106 fewer than ten.
INTER_TOKEN_BUCKETS = (
    *(0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 30.0),
)
INTER_TOKEN = CountedHistogram(
    "inference_inter_token_seconds",
    "Time between two tokens of an answer, as they are passed on.",
    ["model"],
    buckets=INTER_TOKEN_BUCKETS,
)
TOKENS = Counter(
    "inference_tokens_total",
    "Tokens of prompts, how many of these came from the cache, how many of those from a file, and "
    "of completions.",
    ["kind", "model"],
)
# By the names that the gateway gives its clients, see `client_names`.
CLIENT_REQUESTS = Counter(
    "inference_client_requests_total",
    "Inference requests by the client's name and by how they ended, at the rig that took them.",
    ["client", "outcome"],
)
CLIENT_TOKENS = Counter(
    "inference_client_tokens_total",
    "Tokens of a client's prompts, how many of these came from the cache, and of its completions.",
    ["client", "kind"],
)
# "live": a worker that is gone has no requests, whatever it counted last.
ACTIVE = Gauge(
    "active_requests",
    "Inference requests that are being served now.",
    multiprocess_mode="livesum",
)
RETRIES = Counter(
    "inference_retries_total",
    "Requests that were moved to another backend, by what was wrong with the former.",
    ["reason"],
)
RESUMES = Counter(
    "inference_resumes_total",
    "Streams that another backend went on with, by what was wrong with the former.",
    ["reason"],
)
BACKEND_UP = Gauge(
    "backend_up",
    "1 if the backend is known to generate, 0 if it has failed and not answered since.",
    ["backend"],
    multiprocess_mode="livemostrecent",
)
OTHER_MODEL = Gauge(
    "backend_serves_other_model",
    "1 if the backend serves another model than the proxy's settings say, and so gets no requests.",
    ["backend"],
    multiprocess_mode="livemostrecent",
)
PROBES = Counter(
    "backend_probes_total",
    "Probes of a backend by what came of them: a token, the end of a batch, or what was wrong.",
    ["backend", "result"],
)
HANGS = Counter(
    "backend_hangs_total",
    "How often a backend was judged to hang.",
    ["backend"],
)
REVIVALS = Counter(
    "backend_revivals_total",
    "How often systemd was asked to restart a backend that hangs.",
    ["backend"],
)
BACKEND_SLOTS = Gauge(
    "backend_slots",
    "Requests that the backend works on at a time.",
    ["backend"],
    multiprocess_mode="livemax",
)
WARM_SAVES = Counter(
    "warm_saves_total",
    "Conversations that were to be saved to a file, by what came of it: saved, or why not.",
    ["backend", "result"],
)
WARM_RESTORES = Counter(
    "warm_restores_total",
    "Conversations that were to be restored from a file, by what came of it: restored, or why not.",
    ["backend", "result"],
)
WARM_BYTES = Gauge(
    "warm_bytes",
    "Bytes of the conversations in files.",
    multiprocess_mode="livemostrecent",
)
WARM_CONVERSATIONS = Gauge(
    "warm_conversations",
    "Conversations in files.",
    multiprocess_mode="livemostrecent",
)
QUEUE_DEPTH = Gauge(
    "inference_queue_depth",
    "Requests that wait for a slot now.",
    multiprocess_mode="livesum",
)
QUEUE_SECONDS = Histogram(
    "inference_queue_seconds",
    "Time that a request waited in the queue; 0 for one that got a slot at once.",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 45, 60, 90, 120, 180, 300, 600),
)
