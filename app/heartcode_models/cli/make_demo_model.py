"""The command ``scripts/make_demo_model.py``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from heartcode_models.demo.counting import (
    DEFAULT_NUMBERS,
    MAX_NUMBERS,
    MIN_NUMBERS,
    sha256,
    write_model,
)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        description="Write the demo model, which counts: after ' 7' it says ' 8'.",
        epilog="Prints the sha256 and the path, as sha256sum does. Equal arguments give equal files"
        " with the pinned gguf. See docs/demo-model.md.",
    )
    made.add_argument("out", metavar="OUT.gguf", type=Path, help="replaced if it exists")
    made.add_argument(
        "--numbers",
        type=int,
        default=DEFAULT_NUMBERS,
        metavar="N",
        help=f"how far it counts, {MIN_NUMBERS} to {MAX_NUMBERS}, before it ends its answer"
        " (default: %(default)s)",
    )
    made.add_argument(
        "--dead-weight-mib",
        type=int,
        default=0,
        metavar="N",
        help="make it slow: add N MiB of zeros that every token has to read, so that a server makes"
        " about (memory bandwidth in MiB/s) / N tokens per second: 10 with N = 1024 at 10 GiB/s. "
        "They are holes in the file and cost no disk until it is copied, but N MiB of memory"
        " where the model runs (default: %(default)s)",
    )
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    command_line = parser()
    arguments = command_line.parse_args(argv)
    try:
        write_model(
            arguments.out, numbers=arguments.numbers, dead_weight_mib=arguments.dead_weight_mib
        )
        print(f"{sha256(arguments.out)}  {arguments.out}")
    except ValueError as error:
        command_line.error(str(error))
    except OSError as error:
        sys.exit(f"{command_line.prog}: {error}")
