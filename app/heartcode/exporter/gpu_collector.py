"""The cards' metrics, from what `gpu_reader` last told of them.

A scrape looks at memory alone: whatever the driver does, it returns at once. What stays then is
the last that was known of a card, its age and how often it could not be read.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import Metric
from prometheus_client.registry import Collector

from heartcode.exporter import readings
from heartcode.exporter.cards import Labels

#: After these the last values say nothing of the card any more; after the others they stay.
_NOT_THERE = ("lost", "missing", "driver")
#: Before the reading program is started again, when it has ended.
_RESTART_S = 5.0


@dataclass
class _Card:
    """What is known of one card."""

    labels: Labels
    series: Sequence[tuple[str, str, float]] = ()
    texts: dict[str, str] = field(default_factory=dict)
    read_at: float | None = None
    gone: str = "missing"
    errors: Counter[str] = field(default_factory=Counter)
    xids: Counter[int] = field(default_factory=Counter)
    said: str = ""


class GpuCollector(Collector):
    """The cards of the rig's backends.

    Args:
        cards: what each of them is called.
        interval_s: seconds between two readings.
        timeout_s: seconds that the driver may take; then the card does not count as up.
        clock: for tests.
    """

    def __init__(
        self,
        cards: Iterable[Labels],
        *,
        interval_s: float,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval_s, self._timeout_s, self._clock = interval_s, timeout_s, clock
        self._lock = threading.Lock()
        self._cards = {uuid: _Card((gpu, uuid, backend)) for gpu, uuid, backend in cards}

    def start(self) -> None:
        """Read the cards from now on, in a thread that ends with the process."""
        if self._cards:
            threading.Thread(target=self._read_on, name="gpus", daemon=True).start()

    def _read_on(self) -> None:
        command = [sys.executable, "-m", "heartcode.exporter.gpu_reader"]
        command += ["--interval", str(self._interval_s), "--timeout", str(self._timeout_s)]
        while True:
            # It ends when its standard input does, so it never outlives this process.
            with subprocess.Popen(
                [*command, *self._cards], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as reader:
                assert reader.stdout  # noqa: S101 - asked for above
                for line in reader.stdout:
                    told = json.loads(line)
                    self.take(told.pop("uuid"), told)
            _log(f"the cards' reader ended with status {reader.returncode}; it is started again")
            time.sleep(_RESTART_S)

    def take(self, uuid: str, told: dict[str, Any]) -> None:
        """Take in what the reader tells of a card, one of these four.

        {"read": {"series": [[metric, label, value], ...], "texts": {...}, "failed": {...}}},
        {"gone": reason, "why": words}, {"xid": number} or {"note": words}.
        """
        with self._lock:
            card = self._cards[uuid]
            if "read" in told:
                self._take_reading(card, told["read"])
            elif "gone" in told:
                card.gone = told["gone"]
                if card.gone in _NOT_THERE:
                    card.series = ()
                card.errors[card.gone] += 1
                _say(card, f"is not read ({card.gone}): {told['why']}")
            elif "xid" in told:
                card.xids[told["xid"]] += 1
                _log(f"{uuid}: Xid {told['xid']}")
            else:
                _say(card, told["note"])

    def _take_reading(self, card: _Card, reading: dict[str, Any]) -> None:
        card.series, card.texts = reading["series"], reading["texts"]
        card.read_at, card.gone = self._clock(), ""
        failed = reading["failed"]
        card.errors["field"] += len(failed)
        _say(card, f"reads, without {failed}" if failed else "reads")

    def collect(self) -> Iterable[Metric]:
        """Return what is known, without waiting for anything."""
        of_cards = (
            readings.GPU_UP,
            readings.GPU_INFO,
            *readings.GPU_FIELDS.values(),
            readings.GPU_XID_ERRORS,
            readings.GPU_READING_AGE,
            readings.GPU_READ_ERRORS,
        )
        families = {reading.name: reading.family() for reading in of_cards}
        with self._lock:
            for card in self._cards.values():
                for name, labels, value in self._samples(card):
                    families[name].add_metric([*card.labels, *labels], value)
        return [family for family in families.values() if family.samples]

    def _samples(self, card: _Card) -> Iterable[tuple[str, Sequence[str], float]]:
        age = None if card.read_at is None else self._clock() - card.read_at
        up = not card.gone and age is not None and age <= self._interval_s + self._timeout_s
        yield readings.GPU_UP.name, (), up
        texts = readings.GPU_INFO.labels[len(readings.CARD) :]
        yield readings.GPU_INFO.name, [card.texts.get(text, "") for text in texts], 1
        if age is not None:
            yield readings.GPU_READING_AGE.name, (), age
        for name, label, value in card.series:
            yield name, [label] if label else (), value
        for xid, count in card.xids.items():
            yield readings.GPU_XID_ERRORS.name, [str(xid)], count
        for reason in readings.GPU_READ_ERROR_REASONS:
            yield readings.GPU_READ_ERRORS.name, [reason], card.errors[reason]


def _say(card: _Card, what: str) -> None:
    """Log what has become of a card, once."""
    if what != card.said:
        card.said = what
        _log(f"{card.labels[1]} {what}")


def _log(line: str) -> None:
    print(f"exporter: {line}", file=sys.stderr, flush=True)
