"""The rigs and cards behind an address, as `/fleet` tells them (docs/adr/0022)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from heartcode_check.advice import decoded
from heartcode_check.report import printable

HEADINGS = ("Rig", "Card", "Backend", "Model", "State", "In use")
STATES = HEADINGS.index("State")
_UNKNOWN = "-"
_SERVED = "GET /fleet says what the card serves"


@dataclass(frozen=True)
class Card:
    """A backend's card or cards, or a rig that tells of none.

    Its number is "-" then, and its state the rig's. `count` is how many cards it has, `gone` says
    which of them is gone, and why.
    """

    rig: str
    number: str
    backend: str
    model: str
    state: str
    in_use: str
    count: int
    gone: str

    def row(self) -> tuple[str, ...]:
        """Return it as a row below HEADINGS."""
        number = self.number if self.count == 1 else f"{self.number} ({self.count} cards)"
        return self.rig, number, self.backend, self.model, self.state, self.in_use


class UnreadableError(ValueError):
    """What was told is no list of rigs and cards."""


def read(text: str) -> list[Card]:
    """Read what a gateway or a rig's proxy has told.

    Raises:
        UnreadableError: it is something else.
    """
    told = decoded(text)
    try:
        rigs = told["rigs"]  # type: ignore[index]  # what is none fails
        cards = [card for rig in rigs for card in _cards(rig)]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnreadableError from error
    if not cards:
        raise UnreadableError
    return cards


def _cards(rig: Any) -> Iterator[Card]:
    for card in rig["backends"] or [{}]:
        number = str(card.get("number", _UNKNOWN)) if rig["backends"] else _UNKNOWN
        # A rig that tells of no card has lost all of them; one that drains gets no requests.
        is_the_rig_s = number == _UNKNOWN or rig["state"] == "draining"
        slots = card.get("slots", _UNKNOWN)
        in_use = _UNKNOWN if slots == _UNKNOWN else f"{int(card['busy'])} of {int(slots)}"
        yield Card(
            str(rig["name"]),
            number,
            str(card.get("backend", _UNKNOWN)),
            str(card.get("model", _UNKNOWN)),
            str(rig["state"] if is_the_rig_s else card["state"]),
            in_use,
            # One that does not name them is of an older version, and has one.
            max(1, len(list(card.get("cards") or ()))),
            printable(str(card.get("gone", ""))),
        )


def verdict(cards: Sequence[Card]) -> tuple[str, str, str]:
    """Return whether it is "ok", "warn" or "fail", the reason, and what to do about it."""
    total = sum(card.count for card in cards if card.number != _UNKNOWN)
    bad = [card for card in cards if card.state != "up"]
    if not bad:
        rigs = len({card.rig for card in cards})
        return "ok", f"all {total} cards of {rigs} rig{'s' if rigs > 1 else ''} serve", ""
    what, advice = _fault(bad[0])
    up = sum(card.count for card in cards if card.state == "up")
    if not up:
        return "fail", f"none of {total} cards serves: {what}", advice
    more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
    return "warn", f"{up} of {total} cards serve: {what}{more}", advice


def _fault(card: Card) -> tuple[str, str]:
    """What is wrong with a card or its rig, and what to do."""
    rig, number = card.rig, card.number
    name, gone = f"card {number} of {rig}", ""
    if card.count > 1:
        name, gone = f"backend {number} of {rig} with {card.count} cards", card.gone
    of_state = {
        "unreachable": (
            f"{rig} is unreachable",
            f"Has {rig} power and network? On it: systemctl status heartcode",
        ),
        "unknown": (
            f"{rig} does not tell of its cards",
            "Deploy to it, its proxy may be older: ansible-playbook playbooks/site.yml",
        ),
        "draining": (
            f"{rig} is draining",
            f"To end that, on {rig}: rm /run/heartcode/draining",
        ),
        "other_model": (
            f"{name} is other_model",
            f"Run playbooks/site.yml, or wait for the one that runs; {_SERVED}",
        ),
        "gone": (
            f"{name} lacks {gone}" if gone else f"{name} is gone",
            _look_for_the_card(card),
        ),
    }
    other = (
        f"{name} is {card.state}",
        f"On {rig}: systemctl status heartcode-llama@{number}",
    )
    what, advice = of_state.get(card.state, other)
    return what, printable(advice)


def _look_for_the_card(card: Card) -> str:
    """Where to look: in the rig, or in the host that lends it the card (`UUID@HOST: ...`)."""
    helper = card.gone.partition(":")[0].partition("@")[2]
    if helper:
        return f"On {helper}: systemctl status heartcode-rpc@0; nvidia-smi"
    return f"On {card.rig}: cat /run/heartcode/llama/{card.number}.quarantined; nvidia-smi"
