"""The command line of ``benchmark.py``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from heartcode_benchmark.asking import Answer, Server
from heartcode_benchmark.plot import PlotError, draw
from heartcode_benchmark.results import Level, Results, ResultsError, compare, report
from heartcode_benchmark.run import Work, run

_KEY_VARIABLE = "HEARTCODE_API_KEY"
_BYTE_ORDER_MARK = "\ufeff"
_SOME_FAILED, _USAGE, _INTERRUPTED = 1, 2, 130

_EPILOG = f"""\
The API key is taken from --key-file or from the environment's {_KEY_VARIABLE}, so that no list of
processes shows it.

Exit status: 0 all requests were answered, 1 some failed, 2 wrong arguments, 130 interrupted.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        if given.compare:
            print(compare(*(Results.read(path) for path in given.compare)))
            return 0
        server = Server(
            url=_base(given.url),
            key=_key(given.key_file),
            model=given.model,
            timeout_s=given.timeout,
        )
    except (ResultsError, ValueError) as error:
        parser.error(str(error))
    return _measure(server, given)


def _measure(server: Server, given: argparse.Namespace) -> int:
    work = Work(requests=given.requests, max_tokens=given.max_tokens, prompt=given.prompt)
    results = Results(
        asked={
            "url": server.url,
            "model": server.model,
            "requests": work.requests,
            "max_tokens": work.max_tokens,
            "prompt": work.prompt,
        },
        levels=[],
    )
    for concurrency in given.concurrency:
        level = _with_a_bar(server, work, concurrency)
        results.levels.append(level)
        print(report(level), end="\n\n")
        if not level.is_complete:
            break
    if given.json:
        results.write(given.json)
    if given.plot:
        try:
            draw(results, given.plot)
        except PlotError as error:
            print(f"benchmark.py: {error}", file=sys.stderr)
            return _USAGE
    if not all(level.is_complete for level in results.levels):
        return _INTERRUPTED
    return _SOME_FAILED if any(level.errors() for level in results.levels) else 0


def _with_a_bar(server: Server, work: Work, concurrency: int) -> Level:
    bar = tqdm(total=work.requests, unit="request", file=sys.stderr, disable=None, leave=False)

    def tick(_: Answer) -> None:
        bar.update()

    with bar:
        return run(server, work, concurrency, on_answer=tick)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmark.py",
        description="Measures a server with the OpenAI API: times to tokens, throughput, errors.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--url", default="http://localhost:4000", help="its address (default %(default)s)"
    )
    parser.add_argument(
        "--requests", type=_positive, default=20, help="how many (default %(default)s)"
    )
    parser.add_argument(
        "--concurrency",
        type=_counts,
        default=[4],
        metavar="N[,N...]",
        help="how many at a time; with several numbers, one run after the other (default 4)",
    )
    parser.add_argument(
        "--max-tokens", type=_positive, default=100, help="of an answer (default %(default)s)"
    )
    parser.add_argument("--model", default="", help="default: the server's choice")
    parser.add_argument("--key-file", type=Path, help="file with the API key in its first line")
    parser.add_argument("--prompt", help="the same for all requests; default: scenes, no two alike")
    parser.add_argument(
        "--timeout",
        type=_positive,
        default=600,
        help="seconds for which the server may be silent (default %(default)s)",
    )
    parser.add_argument("--json", type=_writable, metavar="FILE", help="write what was seen there")
    parser.add_argument(
        "--plot", type=_writable, metavar="FILE", help="draw throughput against concurrency as PNG"
    )
    parser.add_argument(
        "--compare",
        type=Path,
        nargs=2,
        metavar=("BEFORE", "AFTER"),
        help="measure nothing; compare two files of --json",
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _counts(text: str) -> list[int]:
    return [_positive(part) for part in text.split(",")]


def _writable(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no directory {path.parent}")
    return path


def _base(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"--url: {url!r} is no address like http://gateway:4000")
    return url.rstrip("/").removesuffix("/v1")


def _key(path: Path | None) -> str:
    if path is None:
        return _usable(os.environ.get(_KEY_VARIABLE, ""), _KEY_VARIABLE)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"--key-file: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"--key-file: {path} is no UTF-8 text; save it as such") from error
    key = _usable(lines[0] if lines else "", f"--key-file: {path}")
    if not key:
        raise ValueError(f"--key-file: {path} has no key in its first line")
    return key


def _usable(text: str, where: str) -> str:
    """Return the key without what surrounds it: spaces, and the mark that some editors begin with.

    Raises:
        ValueError: when it cannot stand in a header; the text does not show it.
    """
    key = text.removeprefix(_BYTE_ORDER_MARK).strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError(f"{where}: the key has characters that no API key has; copy it again")
    return key
