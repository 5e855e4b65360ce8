"""What to do about an answer that is none."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from heartcode_check.asking import Answer, Fault, Server
from heartcode_check.report import printable

#: llama-servers' ports, the first of the default ones and how many cards a rig has at most.
_LLAMA_PORT, _MOST_CARDS = 8081, 12
_HTTP_OK = 200
_OWN_CA = "For your own CA: CURL_CA_BUNDLE=ca.pem"

_OF_STATUS: Mapping[int, str] = {
    404: "Is this the base address (without a path) of a gateway, rig or llama-server?",
    429: "The queue is full: wait, or look at active_requests on the rigs.",
    502: "The gateway reached no rig. On the rigs: systemctl status heartcode",
    503: "Loading a model, draining, or no GPU works."
    ' On the rig: systemctl status heartcode "heartcode-llama@*"',
    504: "It waited too long for a free slot or a rig: too many requests, or a GPU hangs.",
}


def _port(url: str) -> int:
    """The port that a URL means; -1 if what it has for one is none."""
    parts = urlsplit(url)
    try:
        return parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return -1


def _host_and_port(url: str) -> str:
    host = urlsplit(url).netloc
    return host if re.search(r":[0-9]+$", host) else f"{host}:{_port(url)}"


def unit(url: str) -> str:
    """Return the unit that serves a URL, by the default ports."""
    port = _port(url)
    if port in (80, 443, 4000):
        return "nginx"
    if _LLAMA_PORT <= port < _LLAMA_PORT + _MOST_CARDS:
        return f"heartcode-llama@{port - _LLAMA_PORT}"
    return "heartcode"


def journal(url: str) -> str:
    """Return how to read what the unit has logged."""
    return f"On that host: journalctl -u {unit(url)} -n 50"


def problem(server: Server, answer: Answer) -> tuple[str, str] | None:
    """Return what is wrong with an answer and what to do; None if it has status 200 and is no page.

    What is in it, is looked at elsewhere.
    """
    if answer.fault:
        return _of_fault(server, answer, answer.fault)
    if answer.status != _HTTP_OK:
        said = next(_messages(decoded(answer.text)), None)
        message = "" if said is None else f": {quoted(said)}"
        return f"HTTP {answer.status}{message}", _of_status(server, answer)
    if answer.content_type.startswith("text/html"):
        return (
            "the answer is a web page (HTML)",
            f"Another server is at {server.url}: is the port right (gateway 4000, rig 8080)?",
        )
    return None


def _of_fault(server: Server, answer: Answer, fault: Fault) -> tuple[str, str]:
    by, log = unit(server.url), journal(server.url)
    longer = server.timeout_s * 4
    kinds = {
        Fault.RESOLVE: (
            "cannot resolve the host name",
            "Is it spelled right? Does DNS or /etc/hosts know it?",
        ),
        Fault.CONNECT: (
            f"connection refused, or no way to {_host_and_port(server.url)}",
            f"Is {by} running? On that host: systemctl status {by}. A firewall in between?",
        ),
        Fault.TIME: (
            f"not complete after {server.timeout_s:.0f} s",
            f"Slow or hung? Try with HEARTCODE_HEALTH_TIMEOUT={longer:.0f}. {log}",
        ),
        Fault.TLS: (
            f"TLS: {answer.reason}",
            f"Is it http:// instead? Is the certificate for this name? {_OWN_CA}",
        ),
        Fault.CUT: (
            "the connection was cut in the middle of an answer",
            f"Did {by} crash or restart? {log}",
        ),
        Fault.OTHER: (answer.reason, ""),
    }
    if fault is Fault.TIME and not answer.status:
        return "no answer within the time limit", f"Is the host up, or {by} busy or hung? {log}"
    return kinds[fault]


def _of_status(server: Server, answer: Answer) -> str:
    if 300 <= answer.status < 400:  # noqa: PLR2004 (RFC 9110)
        to = f" to {printable(answer.redirect)}" if answer.redirect else ""
        return f"It redirects{to}: use the URL it redirects to."
    if answer.status in (401, 403):
        if server.key:
            return "The API key was not accepted: is it the right one for this address?"
        return "No API key was sent: set HEARTCODE_API_KEY or use --key-file."
    return _OF_STATUS.get(answer.status, journal(server.url))


def decoded(text: str) -> object:
    """Return what a text is in JSON, None if it is none."""
    try:
        # Control characters are none of JSON's, but what is said with them counts.
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None


def quoted(text: str) -> str:
    """Return it in the quotes that it has in JSON."""
    return json.dumps(text, ensure_ascii=False)


def _messages(value: object) -> Iterator[str]:
    """Yield every `message` that is a text, wherever it stands: servers have many forms."""
    if isinstance(value, dict):
        if isinstance(value.get("message"), str):
            yield value["message"]
        for inner in value.values():
            yield from _messages(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _messages(inner)
