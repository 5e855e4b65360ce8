"""What the cards are called in the metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

#: Values of `readings.CARD`.
Labels = tuple[str, str, str]


def labels_of(uuids: Sequence[Sequence[str]], backends: Sequence[str]) -> Iterator[Labels]:
    """Yield number, UUID and backend of each card; what is no UUID is no card.

    A card that is alone has its backend's number, one of a group its place behind that: 1.0, 1.1.
    One that another host lends is among them, as ``UUID@HOST``.

    Args:
        uuids: The cards of each backend.
        backends: The backends' URLs, in the order of their numbers.
    """
    for number, (cards, backend) in enumerate(zip(uuids, backends, strict=False)):
        for place, uuid in enumerate(cards):
            if uuid.startswith("GPU-"):
                gpu = f"{number}.{place}" if len(cards) > 1 else str(number)
                yield gpu, uuid, urlsplit(backend).netloc


def is_here(card: Labels) -> bool:
    """Whether it is in this host, so that it can be read; one that is lent its own host reads."""
    return "@" not in card[1]
