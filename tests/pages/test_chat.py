"""llama.cpp's chat page on the fleet: a message is typed, and the count comes."""

import json
from collections.abc import Iterator

import pytest
import requests
from playwright.sync_api import Page, expect

from tests.fleet.harness import Fleet
from tests.pages.conftest import deploy


@pytest.fixture(scope="module", autouse=True)
def chat_ui(fleet: Fleet) -> Iterator[None]:
    deploy(fleet, chat_ui=True)
    yield
    deploy(fleet, chat_ui=False)


def test_the_same_again_changes_nothing(fleet: Fleet) -> None:
    assert deploy(fleet, chat_ui=True) == 0


def test_a_message_is_typed_and_the_count_streams_in(fleet: Fleet, page: Page) -> None:
    # Where its settings keep the key (storage.constants.ts).
    config = json.dumps(json.dumps({"apiKey": fleet.key}))
    page.add_init_script(f"localStorage.setItem('LlamaUi.config', {config})")
    page.goto(fleet.url)
    with page.expect_response("**/v1/chat/completions") as asked:
        box = page.get_by_role("textbox").first
        box.fill("Count, please!")
        box.press("Enter")
    assert asked.value.status == 200
    assert asked.value.headers["content-type"].startswith("text/event-stream")
    answer = page.get_by_text("1 2 3 4 5").first
    expect(answer).to_be_visible()
    expect(answer).to_contain_text("98 99 100")


def test_its_files_are_compressed_and_kept_by_their_names(fleet: Fleet) -> None:
    page = requests.get(fleet.url, timeout=10)
    assert page.headers["Cache-Control"] == "no-cache"
    assert "'sha256-" in page.headers["Content-Security-Policy"]
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    (bundle,) = {x for x in page.text.split('"') if x.endswith(".js") and "immutable" in x}
    script = requests.get(f"{fleet.url}/{bundle.removeprefix('./')}", timeout=30)
    assert script.status_code == 200
    assert script.headers["Content-Encoding"] == "gzip"
    assert script.headers["Content-Type"].startswith("text/javascript")
    assert "immutable" in script.headers["Cache-Control"]


@pytest.mark.parametrize("path", ["/none.js", "/_app/../../script_hashes.conf", "/site/index.html"])
def test_nothing_else_is_served(fleet: Fleet, path: str) -> None:
    answer = requests.get(fleet.url + path, headers=fleet.authorization, timeout=10)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
