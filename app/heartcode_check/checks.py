"""The checks, each of which asks once and says how it went."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

from heartcode_check import cards
from heartcode_check.advice import decoded, journal, problem, quoted
from heartcode_check.asking import Answer, Fault, Server, ask
from heartcode_check.report import Report

_CHAT = "/v1/chat/completions"
_MESSAGES = [{"role": "user", "content": "Count from 1 to 20."}]
_MAX_TOKENS = 16
_HTTP_OK, _NOT_FOUND = 200, 404
#: As many events with text a stream of _MAX_TOKENS has at least, unless something collects them.
_FEWEST_EVENTS = 2
_CUT = "Something cut it: a restart, a lost GPU, a timeout in between?"
_DATA = re.compile("data: *(.*)")


class Checks:
    """All checks of one address.

    Attributes:
        count: how many checks there are; that of the cards is one only where somebody knows cards.
        model: the name of the first model that is listed, None while there is none.
        fleet: what was told of rigs and cards, as it came; "" if nothing was.
    """

    def __init__(self, server: Server, report: Report, *, needs_cards: bool) -> None:
        self.count = 4
        self.model: str | None = None
        self.fleet = ""
        self._server, self._report, self._needs_cards = server, report, needs_cards

    def run(self) -> None:
        """Make them all; where nothing answers the first one, no other."""
        if not self._health():
            self._report.line("The other checks are left out: nothing answers there.")
            return
        self._models()
        self._completion()
        self._stream()
        self._cards()

    def _is_whole(self, check: str, answer: Answer) -> bool:
        """Whether its content can be looked at; else say what is wrong with it."""
        found = problem(self._server, answer)
        if found:
            self._report.fail(check, *found)
        return not found

    def _health(self) -> bool:
        """Whether anything answers."""
        answer = ask(self._server, "/health")
        if self._is_whole("health", answer):
            self._report.passed("health", f"HTTP 200 in {answer.seconds:.6f} s")
        return answer.status != 0

    def _models(self) -> None:
        answer = ask(self._server, "/v1/models")
        if not self._is_whole("models", answer):
            return
        told = decoded(answer.text)
        listed = told.get("data") if isinstance(told, dict) else None
        names = [
            model["id"]
            for model in (listed if isinstance(listed, list) else [])
            if isinstance(model, dict) and isinstance(model.get("id"), str)
        ]
        if not names:
            self._report.fail(
                "models",
                "the list holds no model",
                "Is MODEL_PATH set and the model loaded?"
                " On the rig: systemctl status heartcode-llama@0",
            )
            return
        self.model = names[0]
        self._report.passed("models", f"{len(names)} listed, the first is {quoted(names[0])}")

    def _question(self, *, is_stream: bool) -> bytes:
        question = {"messages": _MESSAGES, "max_tokens": _MAX_TOKENS, "stream": is_stream}
        if self.model is not None:
            question["model"] = self.model
        return json.dumps(question).encode()

    def _completion(self) -> None:
        answer = ask(self._server, _CHAT, self._question(is_stream=False))
        if not self._is_whole("completion", answer):
            return
        text = next(_texts(decoded(answer.text)), None)
        if text is None:
            self._report.fail(
                "completion",
                "the answer holds no text",
                "Does the model load and answer? On the rig: journalctl -u heartcode-llama@0 -n 50",
            )
        else:
            self._report.passed("completion", f"{quoted(text)} in {answer.seconds:.6f} s")

    def _stream(self) -> None:
        answer = ask(self._server, _CHAT, self._question(is_stream=True))
        # One that is cut has sent its status and a part of its events: say what they tell.
        if answer.status == _HTTP_OK and answer.fault is Fault.CUT:
            answer.fault = None
        if not self._is_whole("stream", answer):
            return
        fault = self._fault_of_stream(answer)
        if fault:
            self._report.fail("stream", *fault)
        else:
            self._report.passed(
                "stream",
                f"{_events(answer)} events in {answer.seconds:.6f} s, the first byte after"
                f" {answer.first_byte_s:.6f} s, then [DONE]",
            )

    def _fault_of_stream(self, answer: Answer) -> tuple[str, str] | None:
        sent = list(_sent(answer))
        events = _events(answer)
        errors = list(_errors(sent))
        if not answer.content_type.startswith("text/event-stream"):
            return (
                f"the content type is {answer.content_type or 'missing'}, not text/event-stream",
                'Does something in between rewrite answers, or not pass "stream" on?',
            )
        if errors:
            return f"an error in the stream: {quoted(errors[0])}", journal(self._server.url)
        if "[DONE]" not in sent:
            return (
                f"ended without [DONE] after {events} events",
                f"{_CUT} {journal(self._server.url)}",
            )
        if events < _FEWEST_EVENTS:
            return (
                f"text in only {events} event, where several were asked for",
                "Does something in between collect the events (proxy_buffering)?",
            )
        return None

    def _cards(self) -> None:
        """Look for rigs and cards, of which a llama-server knows nothing."""
        answer = ask(self._server, "/fleet")
        if not answer.fault and answer.status == _NOT_FOUND and not self._needs_cards:
            return
        self.count += 1
        if not self._is_whole("cards", answer):
            return
        self.fleet = answer.text
        try:
            found = cards.read(answer.text)
        except cards.UnreadableError:
            self._report.fail(
                "cards",
                "the list of rigs and cards cannot be read",
                f"Is a HeartCode gateway or rig at {self._server.url}?",
            )
            return
        how, reason, advice = cards.verdict(found)
        if how == "ok":
            self._report.passed("cards", reason)
        elif how == "warn":
            self._report.warn("cards", reason, advice)
        else:
            self._report.fail("cards", reason, advice)
        self._report.table([cards.HEADINGS, *(card.row() for card in found)], states=cards.STATES)


def _sent(answer: Answer) -> Iterator[str]:
    """Yield what each event of a stream holds."""
    for line in answer.text.replace("\r", "").split("\n"):
        found = _DATA.match(line)
        if found:
            yield found.group(1)


def _events(answer: Answer) -> int:
    """Count the events that bring text."""
    return sum(any(_texts(decoded(data))) for data in _sent(answer))


def _errors(sent: Iterable[str]) -> Iterator[str]:
    """Yield what each event says that is an error and no text."""
    for event in map(decoded, sent):
        error = event.get("error") if isinstance(event, dict) else None
        if isinstance(error, dict):
            yield str(error.get("message", ""))
        elif isinstance(error, str):
            yield error


def _texts(answer: object) -> Iterator[str]:
    """Yield each text, not empty, of a whole answer or of one event; a thought is one, too."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    for choice in choices if isinstance(choices, list) else []:
        for part in ("message", "delta"):
            said = choice.get(part) if isinstance(choice, dict) else None
            for kind in ("content", "reasoning_content"):
                text = said.get(kind) if isinstance(said, dict) else None
                if isinstance(text, str) and text:
                    yield text
