"""The picture of a run: throughput against the number of requests at a time."""

from __future__ import annotations

from pathlib import Path

from heartcode_benchmark.results import Results


class PlotError(Exception):
    """There is nothing to draw with."""


def draw(results: Results, path: Path) -> None:
    """Write a PNG: tokens/s in sum, and the median time to the first token.

    Raises:
        PlotError: when matplotlib is missing.
    """
    try:
        # Not at the top: a run without a picture does without it, on a rig as well.
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise PlotError("--plot needs matplotlib: pip install matplotlib") from error
    levels = sorted(results.levels, key=lambda level: level.concurrency)
    counts = [level.concurrency for level in levels]
    figure = Figure(figsize=(7, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(counts, [level.tokens_per_s for level in levels], marker="o")
    above.set_ylabel("tokens/s in sum")
    above.set_ylim(bottom=0)
    above.set_title(str(results.asked.get("url", "")))
    waits = [level.quantities()["first token, s"] for level in levels]
    for label, values in (("median", [w.median for w in waits]), ("90 %", [w.p90 for w in waits])):
        known = [(n, v) for n, v in zip(counts, values, strict=True) if v is not None]
        below.plot([n for n, _ in known], [v for _, v in known], marker="o", label=label)
    below.set_ylabel("time to first token, s")
    below.set_ylim(bottom=0)
    below.set_xlabel("requests at a time")
    below.set_xticks(counts)
    below.legend()
    for axes in (above, below):
        axes.grid(visible=True, alpha=0.3)
    figure.savefig(path, format="png", dpi=120)
