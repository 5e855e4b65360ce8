"""Generated requests to a gateway and to a rig's proxy: what none of them may do.

A failure names each request by its number, by which it can be sent again alone.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from tests.fuzz.conftest import KEY, repeated_by
from tests.fuzz.generated import KEY_MARK, PROMPT_MARK, QUERY_MARK, Case, Ending, plain
from tests.fuzz.sending import Answer, sent
from tests.fuzz.watching import Held, Rig, cpu_ms, held, wake_up
from tests.gateway.nginx import HOST, Gateway
from tests.integration.processes import wait_until

_CLIENTS = Path(__file__).parents[2] / "docs/clients.md"
_ROW = re.compile(r"^\| (\d{3}) \| `([a-z_]+)`", re.MULTILINE)
#: 5xx that a request can ask for, whatever the state of the fleet.
_ASKED_FOR = {501, 505}

# What a request and its answer may cost an event loop, in milliseconds: this for each 100 KB of
# them, beyond so many times what a plain one costs, which answers with a few tokens. The promise is
# 1; the proxy does not keep it yet for bodies of very many values (docs/reliability.md), and may
# not get worse.
_MS_PER_100_KB = {"nginx": 1.0, "the proxy": 12.0}
_PLAIN = 3.0
# What seems too dear is asked so often, in turn with a plain one, and the least of each counts: a
# core that others share is slow for seconds at a time, and then for both.
_REPEATS = 10


@dataclass(frozen=True, kw_only=True)
class Door:
    """Where requests go in, and the processes whose event loops they pass."""

    name: str
    address: tuple[str, int]
    loops: dict[str, list[int]]

    def ask(self, case: Case) -> tuple[Answer, dict[str, float]]:
        """Send a request; return the answer, and what it took of each loop in milliseconds."""
        before = {name: cpu_ms(pids) for name, pids in self.loops.items()}
        answer = sent(case, self.address)
        took = {name: cpu_ms(pids) - before[name] for name, pids in self.loops.items()}
        return answer, took


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request that has been sent."""

    case: Case
    answer: Answer
    took_ms: dict[str, float]

    def __str__(self) -> str:
        said = f"{self.case.kind}, {self.case.size} bytes, {self.case.ending.value}"
        told = f"{self.answer.status} {self.answer.code} {self.answer.said[:120]!r}"
        begin = b"".join(self.case.pieces)[:400]
        return f"{repeated_by(self.case)} ({said}): {told}\n    {begin!r}"


@dataclass(frozen=True, kw_only=True)
class Run:
    """All requests at one door, and what was held before them."""

    door: Door
    before: Held
    asked: list[Asked]
    ids_before: set[str]


@pytest.fixture(scope="module", params=["gateway", "proxy"])
def run(request: pytest.FixtureRequest, cases: list[Case], rig: Rig, gateway: Gateway) -> Run:
    proxy = {"the proxy": [rig.worker]}
    door = {
        "gateway": Door(
            name="gateway",
            address=(HOST, gateway.port),
            loops={"nginx": gateway.workers(), **proxy},
        ),
        "proxy": Door(name="proxy", address=("127.0.0.1", rig.proxy.port), loops=proxy),
    }[request.param]
    wake_up(gateway, rig)
    before = held(rig, gateway)
    ids_before = {line["id"] for line in rig.proxy.log_lines()}
    asked = []
    for case in cases:
        answer, took = door.ask(case)
        asked.append(Asked(case=case, answer=answer, took_ms=took))
        assert rig.is_as_it_was(), f"something has ended: {asked[-1]}"
    wait_until(rig.is_idle, "the rig is idle")
    return Run(door=door, before=before, asked=asked, ids_before=ids_before)


def test_every_request_comes_to_an_end(run: Run) -> None:
    hung = [each for each in run.asked if each.answer.hung]
    assert not hung, _listed(hung)
    # Where the client has stayed, and what it has sent is whole, it is told something.
    silent = [
        each
        for each in run.asked
        if each.case.ending is Ending.READ and not each.answer.is_complete and not each.answer.said
    ]
    assert not silent, _listed(silent)


def test_every_error_is_a_declared_one_and_none_is_the_fleet_s(run: Run) -> None:
    declared = set(_ROW.findall(_CLIENTS.read_text()))
    undeclared = [
        each
        for each in run.asked
        if each.answer.status >= 400
        and each.answer.is_complete
        and not each.case.has_no_body
        and (str(each.answer.status), each.answer.code) not in declared
        # A client that has closed its sending half has left, as far as the proxy knows.
        and not (each.answer.status == 499 and each.case.ending is Ending.HALF_CLOSE)
    ]
    assert not undeclared, _listed(undeclared)
    failed = [
        each
        for each in run.asked
        if each.answer.status >= 500 and each.answer.status not in _ASKED_FOR
    ]
    assert not failed, _listed(failed)


def test_nothing_is_left_of_them(run: Run, rig: Rig, gateway: Gateway) -> None:
    def no_more_than_before() -> bool:
        now, before = asdict(held(rig, gateway)), asdict(run.before)
        return all(now[name] <= before[name] for name in before)

    wait_until(no_more_than_before, f"they hold no more than {run.before}")
    assert set(gateway.workers()) == set(run.door.loops.get("nginx", gateway.workers()))


def test_no_log_has_a_prompt_or_a_key(run: Run, rig: Rig, gateway: Gateway) -> None:
    assert run.asked
    lines = (rig.logs() + gateway.logs).splitlines()
    assert len(lines) >= len(run.asked) / 2, "these are the logs"
    marks = (PROMPT_MARK, KEY_MARK, KEY)
    told = [line for line in lines if any(mark in line for mark in marks)]
    # Of what a URL has behind its path only nginx's own errors tell (docs/threat-model.md).
    own = rig.logs().splitlines() + [str(line) for line in gateway.log_lines("")]
    told += [line for line in own if QUERY_MARK in line]
    assert not told, "\n".join(line[:500] for line in told[:20])


def test_the_rig_is_asked_for_nothing_that_the_gateway_does_not_know_of(
    run: Run, rig: Rig, gateway: Gateway
) -> None:
    if run.door.name != "gateway":
        pytest.skip("nobody stands before the proxy")
    served = {line["id"] for line in rig.proxy.log_lines() if line["endpoint"] != "none"}
    probes = {line["id"] for line in rig.proxy.log_lines() if "/slots" in line["endpoint"]}
    unknown = served - run.ids_before - probes - {line["id"] for line in gateway.log_lines("")}
    assert not unknown


def test_no_event_loop_is_kept_for_longer_than_its_size_allows(run: Run) -> None:
    beside = plain(KEY)
    loops = run.door.loops
    least_plain = _least([run.door.ask(beside)[1] for _ in range(_REPEATS)])
    too_long = []
    for each in run.asked:
        size = each.case.size + each.answer.size
        by_size = {loop: _MS_PER_100_KB[loop] * size / 100_000 for loop in loops}
        if all(each.took_ms[loop] <= _PLAIN * least_plain[loop] + by_size[loop] for loop in loops):
            continue
        pairs = [(run.door.ask(each.case)[1], run.door.ask(beside)[1]) for _ in range(_REPEATS)]
        took, plainly = _least([own for own, _ in pairs]), _least([other for _, other in pairs])
        for loop in loops:
            allowed = _PLAIN * plainly[loop] + by_size[loop]
            if took[loop] > allowed:
                too_long.append(f"{took[loop]:.2f} ms of {loop}, {allowed:.2f} allowed: {each}")
    assert not too_long, "\n".join(too_long)


def _least(counts: list[dict[str, float]]) -> dict[str, float]:
    return {loop: min(count[loop] for count in counts) for loop in counts[0]}


def _listed(asked: list[Asked]) -> str:
    more = f"\nand {len(asked) - 30} more" if len(asked) > 30 else ""
    return f"{len(asked)}:\n" + "\n".join(map(str, asked[:30])) + more
