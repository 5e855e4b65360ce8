"""What the roles ``model``, ``model_mirror`` and ``llama_server`` run.

``describe``, ``pin`` and ``pack`` run on the control node (``scripts/model.py``), ``holds``,
``fetch``, ``follow``, ``check``, ``shape``, ``token-bytes`` and ``measure`` on a host.
Questions and answers are JSON on standard input and output: what stands on a command line can be
read by every account of the host, and a token may be in it.
"""

# ruff: noqa: PLC0415 (each command imports its own: `check` must run where nothing is installed yet)

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from heartcode_models.errors import ModelError
from heartcode_models.gguf.check import check_gguf

_USAGE = (
    "usage: describe | pin | pack | holds | fetch | follow | check FILE | shape FILE"
    " | token-bytes FILE | measure MANIFEST METRICS"
)
#: What was asked for cannot be had; an error of ours would have Python's status 1.
_REFUSED, _USED_WRONGLY = 3, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; gives its exit code."""
    try:
        match list(sys.argv[1:] if argv is None else argv):
            case ["describe" | "pin" | "holds" | "fetch" | "follow" as command]:
                print(json.dumps(_answer(command, json.load(sys.stdin))))
            case ["check", path]:
                check_gguf(Path(path))
            case ["shape" | "token-bytes" as what, path]:
                print(_told_of(what, path))
            case ["measure", manifest, metrics]:
                from heartcode_models.files.measure import measure

                measure(Path(manifest), Path(metrics))
            case ["pack"]:
                from heartcode_models.cache import cache_directory
                from heartcode_models.files.pack import pack

                print(pack(cache_directory() / "model"))
            case _:
                print(_USAGE, file=sys.stderr)
                return _USED_WRONGLY
    except ModelError as error:
        print(error, file=sys.stderr)
        return _REFUSED
    return 0


def _answer(command: str, question: Any) -> Any:
    match command:
        case "describe" | "pin":
            from heartcode_models.files import describe

            return describe.pin(question) if command == "pin" else describe.describe(question)
        case "follow":
            from heartcode_models.files.follow import follow

            return follow(question)
        case _:
            from heartcode_models.files import host

            return host.fetch(question) if command == "fetch" else host.holds(question)


def _told_of(what: str, path: str) -> str:
    """What a file says: its model's shape, or how long the tokens of its vocabulary can be."""
    if what == "shape":
        from heartcode_models.gguf.header import read_header
        from heartcode_models.gguf.read_model import model_of

        return json.dumps(model_of(read_header(path)).as_data())
    from heartcode_models.gguf.vocabulary import longest_token_bytes

    return str(longest_token_bytes(Path(path)))
