"""Draws docs/pictures: `make screenshots`. The charts show what the fleet did in the last hour."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import pytest
from playwright.sync_api import Browser, ViewportSize, expect

from tests.counting import chat
from tests.fleet.harness import ROOT, Fleet, wait_for
from tests.pages.states import put_to_work, without_a_card, without_a_rig
from tests.pages.test_status import ALL_WORK, give_key

PICTURES = ROOT / "docs/pictures"
DESKTOP = ViewportSize(width=1180, height=400)
PHONE = ViewportSize(width=390, height=844)
MOST_BYTES = 200_000
#: An alert that a rig is down has to be pending for five minutes.
PATIENCE_S = 480


@pytest.fixture(scope="module", autouse=True)
def at_work(fleet: Fleet) -> None:
    firing = fleet.metrics('ALERTS{alertstate="firing"}')
    # Backends that came and went in tests are told of for an hour.
    assert firing == [], "draw a fleet that nothing has been done to within the hour"
    put_to_work(fleet)


@contextmanager
def clients(fleet: Fleet) -> Iterator[None]:
    """Have some slots in use, as far as Prometheus knows, until the block ends."""
    enough = Event()

    def ask(number: int) -> None:
        conversation = [{"role": "user", "content": f"Count for client {number}!"}]
        while not enough.is_set():
            chat(fleet, max_tokens=400, messages=conversation)

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, number) for number in range(4)]
        try:
            in_use = "sum(llama_requests_processing) >= 2"
            wait_for(lambda: fleet.metrics(in_use), "slots are in use", PATIENCE_S)
            yield
        finally:
            enough.set()
    for each in asking:
        each.result()


def draw(fleet: Fleet, browser: Browser, name: str, verdict: str, *, dark: bool = False) -> None:
    """Write what a browser shows when the page says `verdict`."""
    phone = name.endswith("phone")
    context = browser.new_context(
        viewport=PHONE if phone else DESKTOP,
        color_scheme="dark" if dark else "light",
        device_scale_factor=2 if phone else 1,
    )
    give_key(context, fleet)
    page = context.new_page()
    path = PICTURES / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    with clients(fleet):
        page.goto(f"{fleet.url}/status")
        expect(page.locator("#verdict")).to_have_text(verdict, timeout=90_000)
        page.screenshot(path=path, full_page=not phone)
    context.close()
    assert path.stat().st_size < MOST_BYTES


def fires(fleet: Fleet, alert: str) -> bool:
    return bool(fleet.metrics(f'ALERTS{{alertname="{alert}",alertstate="firing"}}'))


def test_a_fleet_that_works(fleet: Fleet, browser: Browser) -> None:
    draw(fleet, browser, "status", ALL_WORK)
    draw(fleet, browser, "status-dark", ALL_WORK, dark=True)
    draw(fleet, browser, "status-phone", ALL_WORK)


def test_a_card_is_lost(fleet: Fleet, browser: Browser) -> None:
    with without_a_card(fleet):
        wait_for(lambda: fires(fleet, "HeartCodeCardGone"), "the alert fires", PATIENCE_S)
        draw(fleet, browser, "status-card-lost", "▲3 of 4 cards work")
    # Restored, it tells what a card at rest tells.
    put_to_work(fleet)


def test_a_rig_is_powered_off(fleet: Fleet, browser: Browser) -> None:
    with without_a_rig(fleet):
        wait_for(lambda: fires(fleet, "HeartCodeRigDown"), "the alert fires", PATIENCE_S)
        draw(fleet, browser, "status-rig-off", "▲2 of 4 cards work")
