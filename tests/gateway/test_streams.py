"""Answers of a whole rig, as they come through the gateway."""

from __future__ import annotations

import requests

from tests.counting import count_to, events
from tests.gateway.conftest import StartGateway
from tests.gateway.rigs import Rig, ports


def test_text_completions_stream_too(start_gateway: StartGateway, rigs: list[Rig]) -> None:
    gateway = start_gateway(rigs=ports(rigs))
    with requests.post(
        f"{gateway.url}/v1/completions",
        json={"prompt": " 1 2 3", "max_tokens": 10, "stream": True},
        headers=gateway.authorization,
        stream=True,
        timeout=60,
    ) as response:
        text = "".join(event["choices"][0]["text"] for event in events(response))
    assert text.split() == count_to(13)[3:]
