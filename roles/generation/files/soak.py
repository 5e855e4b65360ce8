"""Asks a rig's proxy for a token of each model, and looks at its metrics for a while.

python3 - --proxy=URL --metrics=URL --ready=N --seconds=N --models=JSON. Ends with 1 and one line on
standard error at the first thing that is not as it should be.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import urllib.error
import urllib.request

#: Seconds that one token may take.
TOKEN_S = 120
PAUSE_S = 1

#: What must not grow: answers that failed, backends that hang.
COUNTERS = ("backend_hangs_total", "backend_revivals_total")
SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)$")

Samples = dict[tuple[str, str], float]


class SoakError(Exception):
    """The rig does not serve as it should; the text says why."""


def token(proxy: str, model: str) -> None:
    """Ask for one token of a model."""
    body = {"prompt": " 1", "max_tokens": 1, "model": model}
    request = urllib.request.Request(  # noqa: S310 - of this host
        f"{proxy}/v1/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=TOKEN_S) as answer:  # noqa: S310
            told = json.load(answer)
    except urllib.error.HTTPError as error:
        raise SoakError(f"the proxy gave no token of {model}: {error.read().decode()}") from error
    except (OSError, ValueError) as error:
        raise SoakError(f"the proxy gave no token of {model}: {error}") from error
    if not told.get("choices"):
        raise SoakError(f"the proxy gave no token of {model}: {json.dumps(told)}")


def read(url: str) -> Samples:
    """Return what the exporter says, by name and labels."""
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - of this host
        lines = answer.read().decode().splitlines()
    found = [match for line in lines if (match := SAMPLE.match(line))]
    return {(match[1], match[2] or ""): float(match[3]) for match in found}


def failed(samples: Samples) -> dict[tuple[str, str], float]:
    """Return the counters that must not grow."""
    return {
        key: value
        for key, value in samples.items()
        if key[0] in COUNTERS
        or (key[0] == "inference_requests_total" and 'outcome="failed"' in key[1])
    }


def quarantined(samples: Samples) -> set[str]:
    """Return the labels of the backends that wait for a card that is gone."""
    return {
        labels
        for (name, labels), value in samples.items()
        if name == "backend_quarantined" and value
    }


def down(samples: Samples) -> list[str]:
    """Return the backends that should serve and do not."""
    gone = quarantined(samples)
    return [
        f"{name}{{{labels}}} is {value:g}"
        for (name, labels), value in samples.items()
        if labels not in gone
        and (
            (name == "backend_up" and not value) or (name == "backend_serves_other_model" and value)
        )
    ]


def ready(url: str, within_s: float) -> Samples:
    """Wait until all backends serve, and return what the metrics are then."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            samples = read(url)
            wrong = down(samples)
            if not wrong:
                return samples
            said = ", ".join(wrong)
        except OSError as error:
            said = f"the exporter does not answer: {error}"
        if time.monotonic() >= deadline:
            raise SoakError(f"after {within_s:g} s {said}")
        time.sleep(PAUSE_S)


def in_quarantine(samples: Samples, model: str) -> bool:
    """Return whether all backends of a model wait for a card that is gone."""
    gone = quarantined(samples)
    mine = [
        match[1]
        for name, labels in samples
        if name == "backend_info"
        and f'model="{model}"' in labels
        and (match := re.search('(backend="[^"]*")', labels))
    ]
    return bool(mine) and set(mine) <= gone


def soak(url: str, began: Samples, seconds: float) -> None:
    """Look at the metrics for so long, and at what they were before it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(min(PAUSE_S, seconds))
        try:
            samples = read(url)
        except OSError as error:
            raise SoakError(f"the exporter does not answer: {error}") from error
        wrong = down(samples)
        wrong += [
            f"{name}{{{labels}}} has grown by {value - began.get((name, labels), 0):g}"
            for (name, labels), value in failed(samples).items()
            if value > began.get((name, labels), 0)
        ]
        if wrong:
            raise SoakError(f"while it was looked at, {', '.join(wrong)}")


def main() -> None:
    """Ask and look."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--proxy", required=True)
    parser.add_argument("--metrics", required=True)
    parser.add_argument("--ready", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--models", type=json.loads, required=True)
    arguments = parser.parse_args()
    try:
        samples = ready(arguments.metrics, arguments.ready)
        models = [model for model in arguments.models if not in_quarantine(samples, model)]
        for model in models:
            token(arguments.proxy, model)
        soak(arguments.metrics, failed(samples), arguments.seconds)
    except SoakError as error:
        sys.exit(str(error))
    print(
        f"a token of {', '.join(models) or 'no model'}; nothing failed in {arguments.seconds:g} s"
    )


if __name__ == "__main__":
    main()
