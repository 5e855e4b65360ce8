"""The command line of ``health_check.sh``."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from heartcode_check.asking import Server
from heartcode_check.checks import Checks
from heartcode_check.report import Report

_DEFAULT_URL = "http://localhost:8080"
_DEFAULT_TIMEOUT = "60"
_FAILED, _USAGE, _DEGRADED, _INTERRUPTED = 1, 2, 3, 130

_HELP = f"""\
Usage: health_check.sh [--key-file FILE] [--json] [URL]

Checks one address: health, the list of models, a completion and a stream; then lists every
rig and card behind it. URL is a gateway (port 4000), a rig's proxy (8080) or a llama-server
(8081 and up, which knows of no cards); without one it is {_DEFAULT_URL}.

  --key-file FILE  read the API key from the first line of FILE
  --json           print rigs and cards as JSON; what is said of the checks goes to stderr
  -h, --help       show this

Environment:
  HEARTCODE_API_KEY         the API key, if no --key-file is given
  HEARTCODE_HEALTH_TIMEOUT  longest time for each check in seconds (default {_DEFAULT_TIMEOUT})
  CURL_CA_BUNDLE            a PEM file with the CAs to trust, instead of the system's
  NO_COLOR                  no colours, as when the output is no terminal

Exit code: 0 all is well, 1 a check failed: it does not serve as it should, 2 the checks could
not be run (wrong arguments, unreadable key file, missing program), 3 it serves, but with less
than it has: a card or a rig is down, starting or draining.
"""


class _UsageError(Exception):
    """What is wrong with the arguments or the environment."""


@dataclass
class _Given:
    url: str = ""
    key_file: str = ""
    is_json: bool = False
    is_help: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        # A name of any script is shown by a terminal that has no letters for it.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        given = _given(sys.argv[1:] if arguments is None else arguments)
        if given.is_help:
            print(_HELP, end="")
            return 0
        server = _server(given, os.environ)
    except _UsageError as error:
        print(f"health_check.sh: {error}", file=sys.stderr)
        print("Try 'health_check.sh --help'.", file=sys.stderr)
        return _USAGE
    try:
        return _check(server, is_json=given.is_json)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Who reads it has seen enough; what is left must not be written at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED


def _check(server: Server, *, is_json: bool) -> int:
    out = sys.stderr if is_json else sys.stdout
    report = Report(out, in_colour=out.isatty() and not os.environ.get("NO_COLOR"))
    report.line(f"Checking {server.url}")
    checks = Checks(server, report, needs_cards=is_json)
    checks.run()
    if is_json:
        sys.stdout.write(checks.fleet)
        sys.stdout.flush()
    if report.failed:
        report.line(f"{report.failed} of {checks.count} checks failed.")
        return _FAILED
    if report.is_degraded:
        report.line("It serves, but with less than it has.")
        return _DEGRADED
    report.line(f"All {checks.count} checks passed.")
    return 0


def _given(arguments: Sequence[str]) -> _Given:
    given = _Given()
    left = list(arguments)
    while left:
        argument = left.pop(0)
        if argument in ("-h", "--help"):
            given.is_help = True
            break
        if argument == "--key-file":
            if not left:
                raise _UsageError("--key-file needs a file name")
            given.key_file = left.pop(0)
        elif argument.startswith("--key-file="):
            given.key_file = argument.partition("=")[2]
        elif argument == "--json":
            given.is_json = True
        elif argument.startswith("-"):
            raise _UsageError(f"unknown option: {argument}")
        elif given.url:
            raise _UsageError(f"one URL only, not also: {argument}")
        elif not argument:
            raise _UsageError("the URL is empty")
        else:
            given.url = argument
    return given


def _server(given: _Given, environment: Mapping[str, str]) -> Server:
    url = given.url or _DEFAULT_URL
    if not re.fullmatch(r"https?://[^/?#@\s]+(/[^?#\s]*)?", url):
        raise _UsageError(f"not a URL: {url} (write it like {_DEFAULT_URL})")
    timeout = environment.get("HEARTCODE_HEALTH_TIMEOUT") or _DEFAULT_TIMEOUT
    if not re.fullmatch("[1-9][0-9]{0,4}", timeout):
        raise _UsageError(
            f"HEARTCODE_HEALTH_TIMEOUT must be whole seconds, 1 or more, not: {timeout}"
        )
    key = _key(given.key_file, environment)
    # OpenAI clients are given the address with /v1, people paste it here.
    base = re.sub("/?$", "", url, count=1)
    return Server(re.sub("/v1$", "", base), key, float(timeout))


def _key(key_file: str, environment: Mapping[str, str]) -> str:
    """The API key, "" for none. No message shows it."""
    key = _first_line(key_file) if key_file else environment.get("HEARTCODE_API_KEY", "")
    # The mark with which some editors begin a file.
    key = key.removeprefix("\ufeff")
    if key_file and not key:
        raise _UsageError(f"no key in the first line of: {key_file}")
    if any(unicodedata.category(character) == "Cc" for character in key):
        raise _UsageError("the API key contains a control character")
    if not key.isascii():
        raise _UsageError("the API key has characters that no key has; is its file UTF-8?")
    return key


def _first_line(path: str) -> str:
    try:
        with Path(path).open(encoding="utf-8", errors="surrogateescape") as file:
            return file.readline().strip(" \t\r\n")
    except OSError as error:
        raise _UsageError(f"cannot read key file: {path}") from error
