from __future__ import annotations

from pathlib import Path

from heartcode.telemetry import metrics_files


def names(directory: Path) -> set[str]:
    return {file.name for file in directory.iterdir()}


def test_a_start_forgets_what_was_active_but_for_the_seats_that_are_taken(tmp_path: Path) -> None:
    directory = tmp_path / "metrics"
    metrics_files.prepare(directory)
    for seat in (0, 1, 11):
        (directory / f"counter_{seat}.db").touch()
        (directory / f"gauge_livesum_{seat}.db").touch()
    counters = {"counter_0.db", "counter_1.db", "counter_11.db"}
    metrics_files.prepare(directory, keep={1})
    assert names(directory) == {*counters, "gauge_livesum_1.db"}
    metrics_files.prepare(directory)
    assert names(directory) == counters
