"""Those who ask the gateway, each from an address of its own if need be."""

from __future__ import annotations

import socket
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from tests.gateway.nginx import HOST, Gateway

CHAT, MODELS = "/v1/chat/completions", "/v1/models"


class _From(HTTPAdapter):
    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options, source_address=(self._address, 0))


def get(gateway: Gateway, path: str, address: str = "", **headers: str) -> requests.Response:
    """Ask from an address of the loopback interface, if it is named."""
    with requests.Session() as session:
        if address:
            session.mount("http://", _From(address))
        return session.get(gateway.url + path, headers=headers, timeout=30)


def get_as_it_stands(gateway: Gateway, path: str, **headers: str) -> requests.Response:
    """Ask for a path as it stands, not as a browser would tidy it."""
    asked = requests.Request("GET", gateway.url, headers=headers).prepare()
    asked.url = gateway.url + path
    with requests.Session() as session:
        return session.send(asked, timeout=30)


def connect(gateway: Gateway, timeout_s: float = 30) -> socket.socket:
    return socket.create_connection((HOST, gateway.port), timeout=timeout_s)


def error_of(answer: requests.Response) -> dict[str, Any]:
    """What an answer says is wrong, which has OpenAI's shape."""
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Request-Id"]
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error
