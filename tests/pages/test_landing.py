"""The page that says what is here, in a browser."""

from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.fleet.harness import Fleet
from tests.pages.conftest import deploy


@pytest.fixture(scope="module", autouse=True)
def landing(fleet: Fleet) -> None:
    deploy(fleet, chat_ui=False)


def test_it_shows_address_and_state(fleet: Fleet, page: Page) -> None:
    page.goto(fleet.url)
    expect(page.get_by_role("heading", name="HeartCode")).to_be_visible()
    expect(page.locator("#address")).to_have_text(f"{fleet.url}/v1")
    expect(page.locator("#state")).to_have_text("Ready")
    expect(page.locator("#example")).to_contain_text(f"curl -N {fleet.url}/v1/chat/completions")


def test_it_shows_the_models_to_who_has_a_key(fleet: Fleet, page: Page) -> None:
    page.goto(fleet.url)
    expect(page.locator("#models-note")).to_have_text(
        "Enter your API key to see which models there are."
    )
    key = page.get_by_label("API key")
    key.fill("not-the-key-of-anybody")
    key.press("Enter")
    expect(page.locator("#models-note")).to_have_text(
        "This API key is not valid. Check it and try again."
    )
    key.fill(fleet.key)
    key.press("Enter")
    expect(page.get_by_role("listitem")).to_contain_text("counting")


def test_it_is_of_use_without_scripts(fleet: Fleet, browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(fleet.url)
    expect(page.locator("#address")).to_have_text(f"{fleet.url}/v1")
    expect(page.get_by_role("link", name="/v1/models")).to_be_visible()
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_ground(
    fleet: Fleet, browser: Browser, scheme: Literal["light", "dark"]
) -> None:
    """WCAG 2.2 asks for a contrast of 4.5 (1.4.3)."""
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    page.goto(fleet.url)
    expect(page.locator("#state")).to_have_text("Ready")
    for text, ground in [("ink", "ground"), ("quiet", "ground"), ("ink", "raised"),
                         ("accent", "ground"), ("on-accent", "accent")]:  # fmt: skip
        assert contrast(*(colour(page, name) for name in (text, ground))) >= 4.5, (text, ground)
    context.close()


@pytest.mark.parametrize("width", [320, 390, 1100])
def test_it_fits_on_every_screen(fleet: Fleet, browser: Browser, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800})
    page = context.new_page()
    page.goto(fleet.url)
    expect(page.locator("#state")).to_have_text("Ready")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # All of the example can be read: a box that scrolls shows no sign of it on many systems.
    example = page.locator(".example pre")
    assert example.evaluate("box => box.scrollWidth <= box.clientWidth")
    context.close()


@pytest.mark.parametrize("what", ["address", "example"])
def test_what_is_shown_can_be_copied_without_tls(fleet: Fleet, page: Page, what: str) -> None:
    page.goto(fleet.url)
    assert page.evaluate("navigator.clipboard") is None
    page.get_by_role("button", name=f"Copy the {what}").click()
    expect(page.get_by_role("button", name=f"Copied the {what}")).to_be_visible()
    page.evaluate("document.body.append(document.createElement('textarea'))")
    page.locator("textarea").focus()
    page.keyboard.press("Control+V")
    assert page.locator("textarea").input_value() == page.locator(f"#{what}").text_content()


def colour(page: Page, name: str) -> list[float]:
    """Return red, green and blue of one of the page's colours, from 0 to 1."""
    script = f"getComputedStyle(document.documentElement).getPropertyValue('--{name}')"
    value = page.evaluate(script).strip().removeprefix("#")
    return [int(value[n : n + 2], 16) / 255 for n in (0, 2, 4)]


def contrast(one: list[float], other: list[float]) -> float:
    """Return the contrast ratio of two colours, as WCAG defines it."""
    brighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def luminance(colour: list[float]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
