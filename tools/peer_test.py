#!/usr/bin/env python3
"""Runs llama.cpp's own server tests against a llama-server, and against the proxy before one.

    make test-peer
    tools/peer_test.py --only '*test_completion.py*' --keep DIRECTORY

What comes out differently has to stand in tools/peer/differences.toml, with its reason, and what
stands there has to differ. The tests are those of the pinned source; a model that counts takes the
place of the hub's, so that some fail both ways where they count tokens: then both have to fail at
the same line.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "app"))

from tools.bench.llamas import command
from tools.bench.relays import free_ports
from tools.peer import differences, suite
from tools.peer.arguments import COMMAND
from tools.peer.model import write_model


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both and compare; return 1 where they differ otherwise than the table says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", action="append", help="a pattern for the ids of tests to be run")
    parser.add_argument("--keep", type=Path, help="a directory for the outcomes")
    options = parser.parse_args(arguments)
    table = differences.read()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what has been started ends, too
    os.environ[COMMAND] = shlex.join(command())
    with tempfile.TemporaryDirectory(prefix="peer-") as scratch:
        here = Path(scratch)
        kept = (options.keep or here).absolute()
        kept.mkdir(parents=True, exist_ok=True)
        tests = suite.unpack(suite.source(), here)
        model = here / "counting.gguf"
        write_model(model)
        (port,) = free_ports(1)
        direct, proxied = (
            suite.run(
                tests,
                server,
                outcomes=kept / f"{server.stem}.json",
                model=model,
                port=port,
                only=options.only or ["*"],
            )
            for server in (suite.DIRECT, suite.PROXIED)
        )
    if options.only:
        table = table.for_some(direct)
    found = differences.faults(direct, proxied, table)
    both = Counter(direct[each].split()[0] for each in direct if direct[each] == proxied.get(each))
    print(f"\n{len(direct)} tests, alike both ways:", dict(both))
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
