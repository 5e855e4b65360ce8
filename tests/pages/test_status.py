"""The page /status, as people see it: with all at work, without a card, without a rig."""

import re
from collections.abc import Iterator
from typing import Literal

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from tests.counting import chat
from tests.fleet.harness import Fleet
from tests.pages.conftest import deploy
from tests.pages.states import put_to_work, without_a_card, without_a_rig
from tests.pages.test_landing import colour, contrast

#: Until Prometheus knows of something and the page has asked it, with a busy machine.
SOON_MS = 90_000
ALL_WORK = "✓All 4 cards work"


@pytest.fixture(scope="module", autouse=True)
def status(fleet: Fleet) -> None:
    deploy(fleet, chat_ui=False)
    put_to_work(fleet)


@pytest.fixture
def keyed(context: BrowserContext, fleet: Fleet) -> BrowserContext:
    """A browser that has been given the key."""
    give_key(context, fleet)
    return context


@pytest.fixture
def page(keyed: BrowserContext, page: Page) -> Iterator[Page]:
    """A page with the key that complains of nothing at all."""
    assert keyed
    errors: list[str] = []
    page.on("console", lambda m: errors.append(m.text) if m.type in ("error", "warning") else None)
    yield page
    assert errors == []


def give_key(context: BrowserContext, fleet: Fleet) -> None:
    context.add_init_script(f"localStorage.setItem('heartcode.key', '{fleet.key}')")


def look(page: Page, fleet: Fleet) -> None:
    """Open the page and wait until it says that all is well."""
    page.goto(f"{fleet.url}/status")
    expect(page.locator("#verdict")).to_have_text(ALL_WORK, timeout=SOON_MS)


def card(page: Page, rig: str, name: str) -> Locator:
    row = (
        page.get_by_role("table", name=rig)
        .get_by_role("row")
        .filter(has=page.get_by_role("rowheader", name=name))
    )
    expect(row).to_have_count(1, timeout=SOON_MS)
    return row


def cells(row: Locator) -> dict[str, str]:
    """The texts of a row by their columns' headings, without signs for the eye alone."""
    script = """row => Object.fromEntries([...row.querySelectorAll('[data-label]')].map(cell => {
        const copy = cell.cloneNode(true);
        copy.querySelectorAll('[aria-hidden=true]').forEach(part => part.remove());
        return [cell.dataset.label, copy.textContent];
    }))"""
    found: dict[str, str] = row.evaluate(script)
    return found


def test_a_fleet_that_works(fleet: Fleet, page: Page) -> None:
    chat(fleet, max_tokens=50)
    look(page, fleet)
    expect(page).to_have_title("All 4 cards work – HeartCode status")
    expect(page.locator("#freshness")).to_have_text(
        re.compile(r"^As of \d\d:\d\d:\d\d, \d+ s ago$")
    )
    for rig, names in (
        ("rig1", ["Card 0 P106-100", "Card 1 P106-100"]),
        ("rig2", ["Card 0 P104-100", "Card 1 P106-100"]),
    ):
        expect(page.get_by_role("heading", name=rig)).to_be_visible()
        table = page.get_by_role("table", name=rig)
        headings = table.get_by_role("columnheader").all_text_contents()
        assert headings[:4] == ["Card", "State", "Model", "Tokens/s"]
        expect(table.get_by_role("rowheader")).to_have_text(names)
    p104 = card(page, "rig2", "Card 0 P104-100")
    expect(p104).to_contain_text("61 °C", timeout=SOON_MS)
    told = cells(p104)
    assert told["State"] == "works"
    assert told["Model"] == "counting"
    assert told["VRAM, GiB"] == "6.4 of 8.0"
    assert re.fullmatch(r"128 of \d+", told["Watts"])
    assert re.fullmatch(r"[0-2] of 2", told["Slots"])
    assert re.fullmatch(r"\d+(\.\d)?", told["Tokens/s"])
    assert re.fullmatch(r"[\d.,]+ to [\d.,]+ tokens per second", told["Last hour"])
    # A chart for each card, and for the fleet's tokens and watts, with something drawn on it.
    assert page.locator(".spark canvas").count() == 6
    drawn = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(x => x)"
    assert page.locator("#figures canvas").first.evaluate(drawn)
    expect(page.locator("#figures")).to_contain_text(re.compile(r"Power\d+ W"))
    expect(page.locator("#figures")).to_contain_text(re.compile(r"Slots in use\d of 8"))


def test_a_card_is_lost_and_comes_back(fleet: Fleet, page: Page) -> None:
    look(page, fleet)
    with without_a_card(fleet):
        expect(page.locator("#verdict")).to_have_text("▲3 of 4 cards work", timeout=SOON_MS)
        expect(page).to_have_title("3 of 4 cards work – HeartCode status")
        lost = card(page, "rig2", "Card 1 P106-100")
        told = cells(lost)
        assert told["State"] == "gone"
        assert told["Temp."] == told["Slots"] == told["Tokens/s"] == "–"
        assert cells(card(page, "rig2", "Card 0 P104-100"))["State"] == "works"
        expect(page.get_by_role("region", name="rig2")).to_contain_text("1 of 2 cards works")
        # A screen reader hears of it, a keyboard gets there.
        expect(page.get_by_role("status")).to_have_text("rig2, card 1: gone.")
        link = page.get_by_role("link", name="rig2, card 1: gone")
        link.press("Enter")
        expect(lost).to_be_focused()
        # The driver's Xid fires at once; "gone" has to last for two minutes.
        xid = page.locator("#alerts li").filter(has_text="rig2: card 1 has reported Xid 79")
        expect(xid).to_be_visible(timeout=SOON_MS)
        expect(xid).to_contain_text("warning")
        expect(xid).to_contain_text("docs/runbooks.md#heartcodexid")
        page.locator("#pending summary").click(timeout=SOON_MS)
        gone = page.locator("#pending li").filter(
            has_text="the card of backend 127.0.0.1:8082 is gone or does not answer"
        )
        expect(gone).to_be_visible(timeout=SOON_MS)
        for width in (320, 390, 1180):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
    expect(page.locator("#verdict")).to_have_text(ALL_WORK, timeout=SOON_MS)
    expect(page.get_by_role("status")).to_have_text("rig2, card 1: works.")


def test_a_rig_is_powered_off_and_comes_back(fleet: Fleet, page: Page) -> None:
    look(page, fleet)
    with without_a_rig(fleet):
        expect(page.locator("#verdict")).to_have_text("▲2 of 4 cards work", timeout=SOON_MS)
        region = page.get_by_role("region", name="rig2")
        expect(region).to_contain_text("does not answer")
        expect(region).to_contain_text("powered off, without network, or not booted")
        expect(page.get_by_role("link", name="rig2 does not answer")).to_be_visible()
        # Its cards are not forgotten.
        told = cells(card(page, "rig2", "Card 0 P104-100"))
        assert (told["State"], told["Model"]) == ("unknown", "counting")
        assert told["Tokens/s"] == told["Watts"] == told["Slots"] == "–"
        assert cells(card(page, "rig1", "Card 0 P106-100"))["State"] == "works"
        expect(page.locator("#figures")).to_contain_text(re.compile(r"Slots in use\d of 4"))
    expect(page.locator("#verdict")).to_have_text(ALL_WORK, timeout=2 * SOON_MS)


def test_it_asks_for_the_key_and_keeps_it(fleet: Fleet, context: BrowserContext) -> None:
    page = context.new_page()
    page.goto(f"{fleet.url}/status")
    key = page.get_by_label("API key")
    expect(key).to_be_visible()
    expect(page.locator("#shown")).to_be_hidden()
    key.fill("not-the-key-of-anybody")
    key.press("Enter")
    expect(page.get_by_role("alert")).to_have_text(
        "This API key is not valid. Check it and try again."
    )
    key.fill(fleet.key)
    key.press("Enter")
    expect(page.locator("#verdict")).to_have_text(ALL_WORK, timeout=SOON_MS)
    expect(key).to_be_hidden()
    # It is there for the other page, too, and when one comes again.
    page.goto(fleet.url)
    expect(page.get_by_role("listitem")).to_contain_text("counting")
    page.get_by_role("link", name="Status of rigs and cards").click()
    expect(page.locator("#verdict")).to_have_text(ALL_WORK, timeout=SOON_MS)
    page.get_by_role("button", name="Forget the key").click()
    expect(key).to_be_visible()
    page.reload()
    expect(key).to_be_visible()


def test_it_does_not_ask_again_and_again_without_a_key(
    fleet: Fleet, context: BrowserContext
) -> None:
    """Each refusal is counted for the address."""
    page = context.new_page()
    page.clock.install()
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url) if "/status/data/" in r.url else None)
    page.goto(f"{fleet.url}/status")
    expect(page.get_by_label("API key")).to_be_visible()
    page.clock.fast_forward(600_000)
    page.evaluate("1")
    assert len(asked) == 1


def test_it_rests_while_nobody_looks_and_when_it_is_paused(fleet: Fleet, page: Page) -> None:
    page.clock.install()
    look(page, fleet)
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url) if "/status/data/" in r.url else None)

    def hide(*, hidden: bool) -> None:
        page.evaluate(
            """hidden => {
                Object.defineProperty(document, 'hidden', {configurable: true, get: () => hidden});
                document.dispatchEvent(new Event('visibilitychange'));
            }""",
            hidden,
        )

    with page.expect_response("**/status/data/alerts"):
        page.clock.fast_forward(11_000)
    page.wait_for_load_state("networkidle")
    hide(hidden=True)
    asked.clear()
    page.clock.fast_forward(600_000)
    page.evaluate("1")
    assert asked == []
    with page.expect_response("**/status/data/alerts"):
        hide(hidden=False)
    page.wait_for_load_state("networkidle")
    pause = page.get_by_role("button", name="Pause")
    pause.click()
    expect(pause).to_have_attribute("aria-pressed", "true")
    asked.clear()
    page.clock.fast_forward(600_000)
    page.evaluate("1")
    assert asked == []
    expect(page.locator("#freshness")).to_have_text(re.compile("^Paused, as of .* ago$"))
    with page.expect_response("**/status/data/alerts"):
        pause.click()
    expect(page.locator("#freshness")).to_have_text(re.compile("^As of"))


def test_it_says_when_prometheus_does_not_answer(fleet: Fleet, keyed: BrowserContext) -> None:
    page = keyed.new_page()
    look(page, fleet)
    fleet.ssh("gateway", "systemctl stop prometheus")
    try:
        expect(page.get_by_role("alert")).to_contain_text(
            "Prometheus on the gateway does not answer.", timeout=SOON_MS
        )
        # What was known stays, and says how old it is.
        expect(page.get_by_role("table", name="rig1")).to_be_visible()
        expect(page.locator("#freshness")).to_have_text(re.compile("^Outdated, as of .* ago$"))
    finally:
        fleet.ssh("gateway", "systemctl start prometheus")
    expect(page.get_by_role("alert")).to_be_hidden(timeout=SOON_MS)
    expect(page.locator("#verdict")).to_have_text(ALL_WORK, timeout=SOON_MS)


def test_it_says_when_the_gateway_does_not_answer(fleet: Fleet, keyed: BrowserContext) -> None:
    page = keyed.new_page()
    look(page, fleet)
    keyed.set_offline(True)
    expect(page.get_by_role("alert")).to_contain_text(
        "The gateway does not answer.", timeout=SOON_MS
    )
    keyed.set_offline(False)
    expect(page.get_by_role("alert")).to_be_hidden(timeout=SOON_MS)


def test_it_is_reached_by_keyboard(fleet: Fleet, page: Page) -> None:
    look(page, fleet)
    reached = []
    for _ in range(3):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "(e => e.textContent.trim() || e.querySelector('img').alt)(document.activeElement)"
            )
        )
    assert reached == ["HeartCode", "Pause", "Forget the key"]
    focused = page.get_by_role("button", name="Forget the key")
    assert focused.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_ground(
    fleet: Fleet, browser: Browser, scheme: Literal["light", "dark"]
) -> None:
    """WCAG 2.2 asks for a contrast of 4.5 (1.4.3)."""
    context = browser.new_context(color_scheme=scheme)
    give_key(context, fleet)
    page = context.new_page()
    look(page, fleet)
    grounds = {
        "ground": ("ink", "quiet", "bad", "good"),
        "raised": ("ink", "quiet", "accent", "good", "warn", "bad"),
        "tint-warn": ("ink", "quiet", "accent", "warn"),
        "tint-bad": ("ink", "quiet", "accent", "bad"),
    }
    for ground, texts in grounds.items():
        for text in texts:
            assert contrast(colour(page, text), colour(page, ground)) >= 4.5, (text, ground)
    context.close()


@pytest.mark.parametrize("width", [320, 390, 768, 1180])
def test_it_fits_on_every_screen(fleet: Fleet, browser: Browser, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800})
    give_key(context, fleet)
    page = context.new_page()
    look(page, fleet)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # A phone's blocks are still a table for who hears them.
    expect(page.get_by_role("table", name="rig1").get_by_role("columnheader")).to_have_count(9)
    overflowing = """() => [...document.querySelectorAll('main *')].filter(e =>
        e.clientWidth && e.scrollWidth > e.clientWidth + 1
        && getComputedStyle(e).overflowX === 'visible'
        && getComputedStyle(e).display !== 'inline').map(e => e.className || e.tagName)"""
    assert page.evaluate(overflowing) == []
    context.close()
