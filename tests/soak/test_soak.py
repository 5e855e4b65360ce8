"""Steady mixed load on one gateway and one rig: nothing may grow. `make soak MINUTES=n`."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.counting import chat
from tests.fuzz.watching import Rig, held, wake_up
from tests.gateway.nginx import Gateway
from tests.integration.processes import wait_until
from tests.soak.growth import Bound, Growth, report

_CLIENTS = 4
# Light, so that what is measured is not the machine's other work.
_PAUSE_S = 0.05
_EVERY_S = 2.0

# A rig of six cards answers about 25,000 requests a day. What a run of minutes can tell apart from
# noise is some ten KiB with 1,000 requests: at the bound that is 6 MiB a day, which the weekly
# updates of Debian's packages end long before MemoryMax. Everything else does not grow at all.
_KIB = 256.0
_BOUNDS = (
    Bound(name="proxy, memory (PSS), KiB", per_1000=_KIB),
    Bound(name="nginx, memory (PSS), KiB", per_1000=_KIB),
    Bound(name="exporter, memory (PSS), KiB", per_1000=_KIB),
    Bound(name="proxy, Python objects", per_1000=500),
    Bound(name="proxy, greenlets", per_1000=0.5, at_rest=0),
    Bound(name="proxy, descriptors", per_1000=0.5, at_rest=2),
    Bound(name="nginx, descriptors", per_1000=0.5, at_rest=2),
    Bound(name="llama-server, descriptors", per_1000=0.5, at_rest=0),
    Bound(name="queue", per_1000=0.5, at_rest=0),
    Bound(name="requests at work", per_1000=0.5, at_rest=0),
    Bound(name="metrics, series", per_1000=2),
)


def _pss_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _measured(rig: Rig, gateway: Gateway) -> list[float]:
    now, census = held(rig, gateway), rig.census()
    metrics = requests.get(rig.exporter.url, timeout=60).text.splitlines()
    return [
        _pss_kib(rig.worker),
        sum(map(_pss_kib, gateway.workers())),
        _pss_kib(rig.exporter.process.pid),
        census["objects"],
        now.greenlets,
        now.proxy,
        now.nginx,
        now.llama,
        rig.exporter.value("inference_queue_depth"),
        rig.exporter.value("active_requests"),
        sum(not line.startswith("#") for line in metrics),
    ]


class _Load:
    """Clients that ask for everything that clients ask for."""

    def __init__(self, gateway: Gateway) -> None:
        self.answers: Counter[str] = Counter()
        self.faults: list[str] = []
        self._gateway = gateway
        self._done = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(_CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._done.set()
            for thread in threads:
                thread.join()

    def _ask(self, number: int) -> None:
        rng = random.Random(number)
        kinds: dict[str, Callable[[random.Random], bool]] = {
            "streamed": self._streamed,
            "whole": self._whole,
            "left in mid-stream": self._left,
            "refused": self._refused,
            "no key": self._stranger,
            "tokenized": self._tokenized,
        }
        while not self._done.is_set():
            (kind,) = rng.choices(list(kinds), weights=[6, 4, 2, 2, 1, 1])
            if kinds[kind](rng):
                self.answers[kind] += 1
            else:
                self.faults.append(kind)
            self._done.wait(_PAUSE_S)

    def _chat(self, rng: random.Random, **fields: Any) -> requests.Response:
        said = f"Count! {rng.randrange(40)} " + "and so on " * rng.randrange(60)
        messages = [{"role": "user", "content": said}]
        return chat(self._gateway, max_tokens=rng.randint(1, 30), messages=messages, **fields)

    def _streamed(self, rng: random.Random) -> bool:
        with self._chat(rng, stream=True) as answer:
            return answer.ok and b"data: [DONE]" in answer.content

    def _whole(self, rng: random.Random) -> bool:
        return bool(self._chat(rng).json()["choices"])

    def _left(self, rng: random.Random) -> bool:
        with self._chat(rng, stream=True) as answer:
            next(answer.iter_content(20))
            return answer.ok

    def _refused(self, rng: random.Random) -> bool:
        if rng.random() < 0.5:
            return self._chat(rng, model=f"none-{rng.random()}").status_code == 404
        url, key = f"{self._gateway.url}/v1/chat/completions", self._gateway.authorization
        return requests.post(url, data=b"{", headers=key, timeout=60).status_code == 400

    def _stranger(self, rng: random.Random) -> bool:
        key = {"Authorization": f"Bearer {rng.random()}"}
        answer = requests.get(f"{self._gateway.url}/v1/models", headers=key, timeout=60)
        return answer.status_code in (401, 429)

    def _tokenized(self, rng: random.Random) -> bool:
        url, key = f"{self._gateway.url}/tokenize", self._gateway.authorization
        body = {"content": "1 2 3 " * rng.randrange(500)}
        return requests.post(url, json=body, headers=key, timeout=60).ok


def test_nothing_grows(rig: Rig, gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    seconds = float(os.environ.get("SOAK_MINUTES") or 1) * 60
    load = _Load(gateway)
    wake_up(gateway, rig)
    samples, requests_so_far = [_measured(rig, gateway)], [0]
    began = time.monotonic()
    with load.running():
        while time.monotonic() - began < seconds:
            time.sleep(_EVERY_S)
            samples.append(_measured(rig, gateway))
            requests_so_far.append(load.answers.total())
    wait_until(rig.is_idle, "the rig is idle")
    wait_until(lambda: held(rig, gateway).greenlets <= samples[0][4], "the greenlets are gone")
    samples.append(_measured(rig, gateway))
    requests_so_far.append(load.answers.total())
    growths = [
        Growth(bound=bound, requests=requests_so_far, values=values)
        for bound, values in zip(_BOUNDS, map(list, zip(*samples, strict=True)), strict=True)
    ]
    with capsys.disabled():
        asked = ", ".join(f"{number:,} {kind}" for kind, number in sorted(load.answers.items()))
        print(f"\n{load.answers.total():,} requests in {seconds / 60:g} minutes: {asked}\n")
        print(report(growths))
    assert not load.faults, Counter(load.faults)
    assert rig.is_as_it_was()
    faults = [fault for growth in growths if (fault := growth.fault())]
    assert not faults, "\n".join(faults)
