"""A browser, and the fleet of `make up` with one page or the other."""

import json
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.fleet.conftest import fleet
from tests.fleet.harness import Fleet

__all__ = ["fleet"]

CHROMIUM = "/usr/bin/chromium-headless-shell"


def deploy(fleet: Fleet, *, chat_ui: bool) -> int:
    """Give the gateway its page; return how many tasks changed something."""
    variables = json.dumps({"gateway_chat_ui": chat_ui})
    done = fleet.playbook("-e", variables, playbook="tests/pages/gateway.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    (changed,) = re.findall(r"changed=(\d+)", done.stdout)
    return int(changed)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Its sandbox wants user namespaces, which containers often lack; it sees these pages alone.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context()
    context.set_default_timeout(60_000)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page that keeps to its policy and whose scripts do not fail."""
    complaints: list[str] = []
    page = context.new_page()
    page.on(
        "console", lambda m: complaints.append(m.text) if "Content Security" in m.text else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    assert complaints == []
