"""What llama.cpp's tests want of the llama-server that they start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# What the programs that stand in for llama-server are told: the real one's command, and a model.
COMMAND = "HEARTCODE_TEST_LLAMA_SERVER"
MODEL = "HEARTCODE_TEST_MODEL"

# Where a model would come from.
_HUB = {"--hf-repo", "--hf-file", "--model-url", "--mmproj-url"}
# One thread, as other programs run beside it; nothing from a hub; nothing moves to a card.
_OURS = ("--offline", "-t", "1", "-ngl", "0", "-fit", "off")
_SLOTS = 4  # what llama-server takes without --parallel


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """A test's arguments.

    Attributes:
        port: where the test asks.
        slots: how many requests are worked on at a time.
        key: the arguments that have llama-server ask for an API key.
        rest: all others for the real one, with a model that is here in place of one of a hub.
    """

    port: int
    slots: int
    key: tuple[str, ...]
    rest: tuple[str, ...]


def understood(arguments: Sequence[str], *, model: str) -> Arguments:
    """Return what a test's arguments mean; the file `model` is for those that name a hub's.

    Raises:
        ValueError: there is no `--port`.
    """
    port, slots = 0, _SLOTS
    key: tuple[str, ...] = ()
    rest: list[str] = []
    hub = False
    left = iter(arguments)
    for name in left:
        if name in _HUB:
            hub = True
            next(left)
        elif name == "--port":
            port = int(next(left))
        elif name == "--api-key":
            key = (name, next(left))
        elif name == "--parallel":
            value = next(left)
            slots = int(value)
            rest += [name, value]
        else:
            rest.append(name)
    if not port:
        raise ValueError("llama.cpp's tests start llama-server with --port, and there is none")
    found = ("--model", model) if hub else ()
    return Arguments(port=port, slots=slots, key=key, rest=(*rest, *found, *_OURS))
