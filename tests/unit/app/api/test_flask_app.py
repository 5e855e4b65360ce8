from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from heartcode.api.app import create_app
from heartcode.api.flask_app import Proxy
from heartcode.settings import Settings
from werkzeug.routing import Map

CHAT = "/v1/chat/completions"


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths for which Werkzeug's map was asked."""
    asked: list[str] = []
    bind = Map.bind_to_environ

    def noted(self: Map, environ: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(environ["PATH_INFO"])
        return bind(self, environ, *args, **kwargs)

    monkeypatch.setattr(Map, "bind_to_environ", noted)
    return asked


def test_a_path_without_variables_is_searched_for_once_for_each_host(
    client: FlaskClient, searches: list[str]
) -> None:
    for _ in range(3):
        assert client.get("/livez").status_code == 200
    assert client.post(CHAT, json={}).json["error"]["param"] == "messages"  # type: ignore[index]
    assert client.get("/livez", headers={"Host": "rig1:8080"}).status_code == 200
    assert searches == ["/livez", "/livez"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("HEAD", "/livez", 200),
        ("OPTIONS", "/livez", 200),
        ("DELETE", "/livez", 405),
        ("GET", CHAT, 405),
        ("GET", "/v1/models/nobody", 503),  # no backend answers
        ("GET", "/livez/", 404),
        ("GET", "/livez%20", 404),
    ],
)
def test_all_else_is_answered_as_by_flask(
    client: FlaskClient, method: str, path: str, status: int
) -> None:
    client.get("/livez")
    answer = client.open(path, method=method)
    assert answer.status_code == status
    if status == 405 or method == "OPTIONS":
        assert "HEAD" in answer.headers["Allow"] or "POST" in answer.headers["Allow"]


def test_a_host_that_cannot_be_one_is_refused_each_time(client: FlaskClient) -> None:
    client.get("/livez")
    for _ in range(2):
        answer = client.get("/livez", headers={"Host": f"{'a' * 64}.example"})
        assert answer.status_code == 400


def test_hosts_are_remembered_up_to_a_number(settings: Settings) -> None:
    app = create_app(settings)
    assert isinstance(app, Proxy)
    client = app.test_client()
    for number in range(100):
        assert client.get("/livez", headers={"Host": f"rig{number}"}).status_code == 200
    assert len(app._known_hosts) == 64
