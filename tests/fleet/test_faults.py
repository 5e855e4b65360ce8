"""The fault matrix: each fault under steady load, and what clients notice of it.

`make test-faults` runs all of it on the fleet of `make up`, `FAULTS=name,name` some of it.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import requests

from tests.counting import ClientDoor, Count, Door
from tests.fleet.faults import Fault, chosen
from tests.fleet.harness import Fleet, comes_true, wait_for
from tests.hammer import Load

#: Those that `make test-faults` has been given; None: it is not what runs.
GIVEN = os.environ.get("FAULTS")
NAMED = GIVEN or ""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a client has got.

    Attributes:
        answers: Requests that were whole, before the fault, under it and after it.
        lost: Requests without an answer, by an error or by nothing.
        broken: Streams that have ended in the middle.
        ended: Both of them, where the fault says that it ends such.
        left_out: Numbers that did not come, though later ones did.
        doubled: Numbers that came twice, or are none of the answer's.
    """

    answers: int
    lost: int
    broken: int
    ended: int
    left_out: int
    doubled: int

    @classmethod
    def of(cls, told: list[Count], fault: Fault) -> Share:
        wrong = [made for made in told if not made.is_whole]
        broken = sum(made.stream and made.status == requests.codes.ok for made in wrong)
        return cls(
            answers=len(told) - len(wrong),
            lost=0 if fault.ends else len(wrong) - broken,
            broken=0 if fault.ends else broken,
            ended=len(wrong) if fault.ends else 0,
            left_out=sum(made.left_out for made in told),
            doubled=sum(made.doubled for made in told),
        )


@dataclass(frozen=True, kw_only=True)
class Result:
    """A line of the report; times in seconds.

    Attributes:
        fault: Its name.
        clients: What each of them has got.
        moved: Answers that went on at another card or rig.
        usual_s: The longest gap between two tokens before it.
        gap_s: The same from then on until all had recovered.
        first_s: The longest that a stream of that time has waited for its first token.
        recovery_s: How long that took.
        alert: The one that was raised.
    """

    fault: str
    clients: dict[str, Share]
    moved: int
    usual_s: float
    gap_s: float
    first_s: float
    recovery_s: float
    alert: str


def gap_s(told: list[Count], since: float, until: float) -> float:
    """The longest time between two tokens of a stream of which a part lies in between."""
    return max(
        (
            later - earlier
            for made in told
            for earlier, later in zip(made.heard, made.heard[1:], strict=False)
            if later > since and earlier < until
        ),
        default=0.0,
    )


def first_s(told: list[Count], since: float, until: float) -> float:
    """The longest time to a first token, of streams that were asked for in between."""
    waits = (
        made.heard[0] - made.began for made in told if made.heard and since < made.began < until
    )
    return max(waits, default=0.0)


def served(fleet: Fleet) -> dict[str, float]:
    return {rig: fleet.answered(rig) for rig in fleet.rigs}


def went_on(fleet: Fleet, since: dict[str, str]) -> int:
    """How many answers have gone on elsewhere, told by the logs that hosts still have."""
    found = 0
    for host, cursor in since.items():
        read = f"journalctl --output=cat --unit=heartcode --unit=heartcode-relay {cursor!r}"
        told = fleet.ssh(
            host, f"journalctl --sync; {read} | grep -cE '\"resumes\": [1-9]'", check=False
        )
        found += int(told or 0)
    return found


def ails(fleet: Fleet, targets: int) -> str:
    """What is not as it was before the fault, or ""."""
    try:
        answer = requests.get(f"{fleet.url}/fleet", headers=fleet.authorization, timeout=10)
        rigs = answer.json()["rigs"]
    except (requests.RequestException, ValueError, KeyError) as error:
        return f"the gateway: {error!r}"
    found = [
        f"{rig['name']} is {rig['state']}, its backends "
        + ", ".join(backend["state"] for backend in rig["backends"])
        for rig in rigs
        if rig["state"] != "up"
    ]
    return "; ".join(found) or ("" if up(fleet) == targets else "Prometheus misses a target")


def up(fleet: Fleet) -> int:
    """How many of its targets Prometheus has reached; 0 where it cannot be asked."""
    found = fleet.metrics("count(up == 1)", check=False)
    return int(found[0]["value"][1]) if found else 0


def awaited(fleet: Fleet, fault: Fault) -> str:
    """The fault's alert, if it has one, and whether it is pending or fires."""
    if not fault.alert:
        return ""
    query = f'ALERTS{{alertname="{fault.alert}"}}'
    found = wait_for(lambda: fleet.metrics(query), f"{fault.alert} is raised", 120)
    return f"{fault.alert} ({found[0]['metric']['alertstate']})"


def at_work(fleet: Fleet) -> dict[str, list[int]]:
    """Requests that are still worked on, rig by rig."""
    answer = requests.get(f"{fleet.url}/fleet", headers=fleet.authorization, timeout=10)
    return {
        rig["name"]: [backend["busy"] for backend in rig["backends"]]
        for rig in answer.json()["rigs"]
        if any(backend["busy"] for backend in rig["backends"])
    }


def strike(fleet: Fleet, fault: Fault, clients: Mapping[str, Door]) -> Result:
    """Put load on, do it, wait until all is as before, and tell what clients have noticed."""
    targets = wait_for(lambda: up(fleet), "Prometheus answers")
    since_then = {host: fleet.cursor(host) for host in fleet.addresses}
    numbers = 300 if fault.is_quick else 2000
    with Load(clients, streams=4, whole=2, numbers=numbers) as load:
        load.wait_for_answers()
        began = time.monotonic()
        alert = ""
        with fault.strike(fleet):
            struck = time.monotonic()
            if fault.healed:
                alert = awaited(fleet, fault)
                if not fault.ends:
                    load.wait_for_answers()
        since = time.monotonic() if fault.healed else struck if fault.is_repeated else began
        before = served(fleet)
        # The limit that it is held to is below; this one only ends a test that has failed.
        comes_true(
            lambda: (
                not ails(fleet, targets)
                and all(now > before[rig] for rig, now in served(fleet).items())
            ),
            2 * fault.recovery_s,
        )
        recovered = time.monotonic()
        assert not (told := ails(fleet, targets)), told
        alert = alert or awaited(fleet, fault)
        load.wait_for_answers()
    wait_for(lambda: not at_work(fleet), lambda: f"nothing is at work: {at_work(fleet)}")
    wrong = [made for made in load.told if not made.is_whole]
    late = [str(made) for made in wrong if made.began > recovered or made.ended < began]
    assert not late, f"not by the fault: {late}"
    print("\n".join(map(str, wrong)))
    return Result(
        fault=fault.name,
        clients={
            name: Share.of([made for made in load.told if made.client == name], fault)
            for name in clients
        },
        moved=went_on(fleet, since_then),
        usual_s=round(gap_s(load.told, 0, began), 2),
        gap_s=round(gap_s(load.told, began, recovered), 2),
        first_s=round(first_s(load.told, began, recovered), 1),
        recovery_s=round(recovered - since, 1),
        alert=alert,
    )


@pytest.fixture(scope="module")
def report(fleet: Fleet, request: pytest.FixtureRequest) -> Iterator[Callable[[Result], None]]:
    """Tell a result, in faults.json beside the fleet at once and in a table at the end."""
    results: list[Result] = []
    file = Path(fleet.directory, "faults.json")

    def tell(result: Result) -> None:
        results.append(result)
        file.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")

    yield tell
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n" + "\n".join(table(results)))


def table(results: list[Result]) -> list[str]:
    heads = (
        *("fault", "client", "whole", "lost", "broken", "ended by nature", "left out", "doubled"),
        *("moved", "usual gap, s", "longest gap, s", "first token, s", "recovered in, s", "alert"),
    )
    lines: list[Sequence[str]] = [heads, ["---"] * len(heads)]
    for result in results:
        told = asdict(result)
        name, *of_all = (str(told[key]) or "-" for key in told if key != "clients")
        for client, share in told["clients"].items():
            lines.append([name, client, *map(str, share.values()), *of_all])
            # What is no single client's stands in the first line of a fault.
            name, of_all = "", [""] * len(of_all)
    return ["| " + " | ".join(line) + " |" for line in lines]


@pytest.fixture(scope="module")
def two_clients(
    fleet: Fleet, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Door]]:
    """The fleet's own key, and that of a second client."""
    directory, key = tmp_path_factory.mktemp("keys"), f"second-{uuid.uuid4().hex}"
    keys = [{"name": "default", "key": fleet.key}, {"name": "second", "key": key}]
    fleet.set_up_gateway(directory, gateway_api_keys=keys)
    yield {"default": fleet, "second": ClientDoor(url=fleet.url, key=key)}
    fleet.set_up_gateway(directory)


@pytest.fixture
def clients(fleet: Fleet, fault: Fault, request: pytest.FixtureRequest) -> dict[str, Door]:
    """Who asks, by name: two of them, but where only the quick faults run.

    Giving a gateway another key takes longer than such a fault.
    """
    if fault.is_quick and GIVEN is None:
        return {"default": fleet}
    both: dict[str, Door] = request.getfixturevalue("two_clients")
    return both


@pytest.mark.usefixtures("disturbs")
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(
            fault, id=fault.name, marks=[] if fault.is_quick or NAMED else pytest.mark.long
        )
        for fault in chosen(NAMED)
    ],
)
def test_nothing_is_lost_and_all_recovers(
    fleet: Fleet, fault: Fault, clients: dict[str, Door], report: Callable[[Result], None]
) -> None:
    result = strike(fleet, fault, clients)
    report(result)
    for name, share in result.clients.items():
        assert share.answers > 0, name
        assert (share.lost, share.broken, share.left_out, share.doubled) == (0, 0, 0, 0), name
    assert result.recovery_s <= fault.recovery_s
    assert result.gap_s - result.usual_s <= fault.pause_s
