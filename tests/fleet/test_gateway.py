"""The fleet through its one door, as clients see it."""

import json
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.counting import chat, count_to, events, text_of
from tests.fleet.harness import Fleet, log_line, proxy_lines, wait_for


def conversation(number: int) -> list[dict[str, str]]:
    """One of many: each has its rig."""
    return [{"role": "user", "content": f"I am client {number:x}x. Count!"}]


def test_a_curl_through_nginx_counts_to_50(fleet: Fleet) -> None:
    body = (
        '{"messages": [{"role": "user", "content": "Count!"}], "max_tokens": 50, "stream": false}'
    )
    done = subprocess.run(
        [
            *("curl", "-fsS", f"{fleet.url}/v1/chat/completions"),
            *("-H", "Content-Type: application/json", "-d", body),
            *("-H", f"Authorization: Bearer {fleet.key}"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    content = json.loads(done.stdout)["choices"][0]["message"]["content"]
    assert content.split() == count_to(50)


def test_a_stream_counts_to_2000_without_gap(fleet: Fleet) -> None:
    with chat(fleet, max_tokens=2000, stream=True) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert "".join(map(text_of, events(response))).split() == count_to(2000)


def test_tokens_arrive_while_the_rest_is_still_computed(fleet: Fleet) -> None:
    """The first token is here when the rig still works on the last: nothing is held back."""

    backends = fleet.backends()

    def working() -> bool:
        return any(fleet.is_working(*backend) for backend in backends)

    wait_for(lambda: not working(), "the fleet is idle")
    with chat(fleet, max_tokens=3500, stream=True) as response:
        arriving = events(response)
        first = next(text for event in arriving if (text := text_of(event)))
        still_working = working()
        rest = list(arriving)
    assert first.split() == ["1"]
    assert still_working
    assert len(rest) > 1000, "the tokens came in lumps"


@pytest.mark.usefixtures("disturbs")
def test_a_stream_outlives_its_llama_server(fleet: Fleet) -> None:
    with chat(fleet, max_tokens=3500, stream=True) as response:
        arriving = events(response)
        told = [next(arriving) for _ in range(10)]
        killed = fleet.signal_working("KILL")
        assert killed, "no backend worked on the stream any more"
        told += arriving
    assert "".join(map(text_of, told)).split() == count_to(3500)
    assert len({event["id"] for event in told}) == 1
    rig, number = killed
    wait_for(
        lambda: fleet.state(rig, f"heartcode-llama@{number}") == "active",
        "systemd has started the killed one again",
    )


def test_a_burst_is_shared_by_both_rigs_and_all_four_backends(fleet: Fleet) -> None:
    def generated(rig: str, number: int) -> float:
        metrics = fleet.ssh(rig, f"curl -s http://127.0.0.1:{8081 + number}/metrics")
        (line,) = (
            m for m in metrics.splitlines() if m.startswith("llamacpp:tokens_predicted_total")
        )
        return float(line.split()[-1])

    backends = fleet.backends()
    assert len(backends) == 4
    before = {backend: generated(*backend) for backend in backends}
    with ThreadPoolExecutor(16) as pool:
        # Conversations of their own, and long: nobody gains by waiting for another's cache.
        answers = list(
            pool.map(
                lambda n: chat(fleet, max_tokens=1500, messages=conversation(n)),
                range(16),
            )
        )
    for answer in answers:
        content = answer.json()["choices"][0]["message"]["content"]
        assert content.split() == count_to(1500)
    idle = [b for b in backends if generated(*b) == before[b]]
    assert not idle, "these backends had no part in the burst"


def test_the_request_id_goes_all_the_way(fleet: Fleet) -> None:
    request_id = f"fleet-{uuid.uuid4()}"
    answer = requests.post(
        f"{fleet.url}/v1/completions",
        json={"prompt": " 1", "max_tokens": 1},
        headers={"X-Request-Id": request_id, **fleet.authorization},
        timeout=60,
    )
    assert answer.headers["X-Request-Id"] == request_id
    assert len(proxy_lines(fleet, request_id)) == 1, "one rig has logged it, once"
    assert log_line(fleet, request_id)["status"] == 200


@pytest.mark.usefixtures("disturbs")
def test_a_rig_without_power_is_skipped_and_comes_back_by_itself(fleet: Fleet) -> None:
    fleet.tool("stop", "rig2")
    try:
        for n in range(6):
            answer = chat(fleet, max_tokens=5, messages=conversation(n))
            assert answer.status_code == 200, answer.text
            assert answer.json()["choices"][0]["message"]["content"].split() == count_to(5)
        told = requests.get(f"{fleet.url}/fleet", headers=fleet.authorization, timeout=30).json()
        assert told["rigs"][1] == {
            "name": "rig2",
            "version": "-",
            "state": "unreachable",
            "backends": [],
        }
    finally:
        fleet.tool("start", "rig2")
    # Its cards' device files were gone with the power.
    names = ("heartcode-llama@0", "heartcode-llama@1", "heartcode", "heartcode-gpu-tune")
    asked = f"systemctl is-active {' '.join(names)} || true"
    wait_for(
        lambda: fleet.ssh("rig2", asked).split() == ["active"] * len(names),
        "rig2 serves again after its boot",
    )
    # Closed before its network was up, not by a later hand.
    table = "nft list table inet heartcode"
    assert "dport" in fleet.ssh("rig2", table)
    units = "heartcode-firewall.service network-pre.target"
    began = fleet.ssh(
        "rig2", f"systemctl show --value --property=ActiveEnterTimestampMonotonic {units}"
    )
    firewall, network = map(int, began.split())
    assert firewall <= network


@pytest.mark.usefixtures("disturbs")
def test_a_rig_without_network_is_skipped(fleet: Fleet) -> None:
    fleet.tool("cut", "rig1")
    try:
        for n in range(6):
            answer = chat(fleet, max_tokens=5, messages=conversation(n))
            assert answer.status_code == 200, answer.text
    finally:
        fleet.tool("restore", "rig1")
