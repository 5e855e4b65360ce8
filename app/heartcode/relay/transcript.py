"""What a client has got of a streamed answer, so that another backend can go on with it.

    transcript = transcript_of(path, fields)  # None: this request cannot be continued
    transcript.note(events)  # for all that the client gets
    ...
    continuation = transcript.continuation(body)  # None: what the client has cannot be continued

How another backend goes on: `continuation`.

Stop strings need no care at the seam: llama-server holds text back for as long as it could be the
beginning of a stop string, so a text that was sent never ends with one, and what was held back is
generated again. A text that ends so all the same came from something else, and is not continued.

No sockets here: bytes and JSON in, bytes and JSON out.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from heartcode.fields import Fields
from heartcode.relay import sse
from heartcode.relay.continuation import CHAT, COMPLETIONS, LIMITS, NATIVE, Continuation

# Each of these makes an answer more than its text, or its text more than a continuation: tool
# calls, grammars and a budget for thoughts have a state that a prompt does not carry, probabilities
# belong to tokens that were not sampled here, and `echo` and `continue_final_message` change what
# is repeated.
_RULED_OUT = {
    *("grammar", "json_schema", "logprobs", "n_probs", "echo", "suffix"),
    *("response_fields", "verbose", "return_tokens", "reasoning_control"),
}
_RULED_OUT_IN_CHATS = {
    *("tools", "functions", "function_call", "top_logprobs", "continue_final_message"),
}
# One choice, and as many thoughts as it takes.
_USUAL = dict.fromkeys(("n", "n_cmpl", "best_of"), 1) | dict.fromkeys(
    ("reasoning_budget_tokens", "thinking_budget_tokens"), -1
)
# Not `created`: llama-server gives every event its own time.
_SAME_FOR_THE_WHOLE = ("id", "model", "system_fingerprint")

# What a message's content may be; a list is one of parts.
_OF_TEXT = {str, list, type(None)}

# Tokens of a transcript that are read together.
_PAGE = 64


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """Where an endpoint keeps the text.

    Attributes:
        text_begin, text_end: what llama-server writes around the text of a token, by which most
            events are read without being parsed.
    """

    text_begin: bytes
    text_end: bytes
    fits: Callable[[Fields], bool]


def _chat_fits(fields: Fields) -> bool:
    # What is cheap to see comes first.
    return (
        not _are_given(_RULED_OUT_IN_CHATS, fields)
        and _is_text_format(fields.get("response_format"))
        and fields.get("tool_choice") in (None, "none", "auto")
        and fields.get("add_generation_prompt") in (None, True)
        and _are_texts(fields.get("messages"))
    )


def _are_texts(messages: object) -> bool:
    if not isinstance(messages, list) or set(map(type, messages)) != {dict}:
        return False
    contents = [message.get("content") for message in messages]
    parts = chain.from_iterable(each for each in contents if type(each) is list)
    return set(map(type, contents)) <= _OF_TEXT and all(
        type(part) is dict and part.get("type") == "text" for part in parts
    )


def _completion_fits(fields: Fields) -> bool:
    prompt = fields.get("prompt")
    return isinstance(prompt, str) or _goes_on_itself(prompt)


def _goes_on_itself(prompt: object) -> bool:
    """Return whether it is a text with tokens behind it, as a continuation has them."""
    if not isinstance(prompt, list) or len(prompt) < 2:  # noqa: PLR2004 - a text, and a token
        return False
    text, *tokens = prompt
    return isinstance(text, str) and all(type(token) is int for token in tokens)


_SHAPES = {
    CHAT: _Shape(
        text_begin=b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"',
        text_end=b'"}}],"created":',
        fits=_chat_fits,
    ),
    COMPLETIONS: _Shape(
        text_begin=b'data: {"choices":[{"text":"',
        text_end=b'","index":0,"logprobs":null,"finish_reason":null}],"created":',
        fits=_completion_fits,
    ),
    NATIVE: _Shape(
        text_begin=b'data: {"index":0,"content":"',
        text_end=b'","tokens":[',
        fits=_completion_fits,
    ),
}


def transcript_of(path: str, fields: Fields) -> Transcript | None:
    """Return an empty transcript, or None for a request that could never be continued."""
    shape = _SHAPES.get(path)
    if shape is None:
        return None
    if _are_given(_RULED_OUT, fields):
        return None
    if any(fields.get(name) not in (None, usual) for name, usual in _USUAL.items()):
        return None
    if any(not _is_whole_or_none(fields.get(name)) for name in LIMITS):
        return None
    if _stop_strings(fields) is None:
        return None
    return Transcript(path, shape) if shape.fits(fields) else None


def _are_given(names: set[str], fields: Fields) -> bool:
    return any(fields.says(name) for name in names)


def _is_whole_or_none(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def _is_text_format(value: object) -> bool:
    return value is None or (isinstance(value, dict) and value.get("type") in (None, "text"))


def _stop_strings(fields: Mapping[str, Any]) -> list[str] | None:
    """Return the request's stop strings; None if they are not in a known form."""
    stop = fields.get("stop")
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if isinstance(stops, list) and all(isinstance(word, str) for word in stops):
        return stops
    return None


class Transcript:
    """What the client has got of an answer so far.

    It is written down token by token, but read only when somebody asks, or a page of it at a time:
    that costs a third of reading each token when it comes.

    Attributes:
        opening: what of the text no backend has generated, see `progress.Reading`.
    """

    def __init__(self, path: str, shape: _Shape) -> None:
        self.opening = ""
        self._path = path
        self._shape = shape
        self._first: bytes | None = None
        self._unread: list[bytes] = []
        self._escaped = bytearray()  # the text, still as it stands between quotes in JSON
        self._ends = array("I")  # where in it the text of each event ends
        self._is_known = True
        self._is_finished = False
        self._is_complete = False

    @property
    def has_begun(self) -> bool:
        """Whether the client has got anything."""
        return self._first is not None

    @property
    def is_known(self) -> bool:
        """Whether the text is all there was to it."""
        self._read()
        return self._is_known

    @property
    def events(self) -> int:
        """How many events had a text.

        llama-server makes one for each token, except that the tokens of one character, and those
        that were held back because a stop string might have begun, come together.
        """
        self._read()
        return len(self._ends)

    @property
    def text(self) -> str:
        """The text so far."""
        self._read()
        text: str = json.loads(b'"%b"' % bytes(self._escaped))
        return text

    def note(self, events: bytes) -> None:
        """Note complete events that go to the client."""
        if self._first is None:
            self._first = events
        self._unread.append(events)
        if len(self._unread) >= _PAGE:
            self._read()

    def _read(self) -> None:
        if not self._unread:
            return
        begin, end = self._shape.text_begin, self._shape.text_end
        events = b"".join(self._unread)
        self._unread.clear()
        # The hot path: once for each token. A text cannot hold `end`, its quotes are escaped.
        for event in events.split(sse.EVENT_END):
            if event.startswith(begin):
                text_end = event.find(end)
                if text_end > len(begin):
                    self._escaped += event[len(begin) : text_end]
                    self._ends.append(len(self._escaped))
                    continue
            if event:
                self._note_other(event)

    def _note_other(self, event: bytes) -> None:
        if event == sse.DONE:
            self._is_complete = True
            return
        if event.startswith(b":"):
            return
        payload = sse.payload(event)
        if payload is not None and "stop" in payload:
            self._note_native(payload)
            return
        choices = payload.get("choices") if payload is not None else None
        if not isinstance(choices, list) or len(choices) > 1:
            self._is_known = False
            return
        try:
            for choice in choices:
                self._note_choice(choice)
        except (AttributeError, TypeError):
            self._is_known = False

    def _note_native(self, payload: Mapping[str, Any]) -> None:
        if payload.get("content"):
            self._is_known = False  # a text of a shape that is not known
        # There is no [DONE]: the last event says so itself.
        self._is_complete = payload["stop"] is True

    def _note_choice(self, choice: Mapping[str, Any]) -> None:
        delta = choice.get("delta", {})
        text = choice.get("text") or delta.get("content")
        if delta.keys() - {"role", "content"}:
            self._is_known = False  # tool calls, thoughts, or what a newer version has invented
        elif text:
            self._escaped += json.dumps("" + text)[1:-1].encode()
            self._ends.append(len(self._escaped))
        if choice.get("finish_reason") is not None:
            self._is_finished = True

    def continuation(self, body: bytes) -> Continuation | None:
        """Return how another backend can go on; `body` is the client's request.

        None if a resume would be wrong.
        """
        if not self.is_known:
            return None
        fields: dict[str, Any] = json.loads(body)
        text, pieces = self.text, self._generated()
        if pieces is None or _ends_with_a_beginning_of(text, _stop_strings(fields) or []):
            return None
        return Continuation(
            path=self._path,
            fields=fields,
            has_text=bool(text),
            pieces=pieces,
            head=_head(self._first),
        )

    def _generated(self) -> list[str] | None:
        """Return what was generated, as it came; None if it does not follow the opening."""
        pieces: list[str] = []
        begin = 0
        for end in self._ends:
            pieces.append(json.loads(b'"%b"' % bytes(self._escaped[begin:end])))
            begin = end
        left = self.opening
        while left and pieces:
            first = pieces.pop(0)
            known = min(len(first), len(left))
            if first[:known] != left[:known]:
                return None
            left = left[known:]
            if first[known:]:
                pieces.insert(0, first[known:])
        return None if left else pieces

    @property
    def is_cut(self) -> bool:
        """Whether an answer that ends here lacks its end, as far as can be told."""
        return self.is_known and not self._is_complete

    @property
    def ending(self) -> bytes | None:
        """What is missing when the answer itself is finished; None when it is not finished.

        llama-server sends the finish reason, `usage` and `timings` in one write, so that only the
        last line can be missing.
        """
        self._read()
        return sse.DONE + sse.EVENT_END if self._is_finished else None


def _head(first: bytes | None) -> dict[str, Any]:
    """Return what every event of the answer has in common."""
    payload = sse.payload((first or b"").split(sse.EVENT_END)[0]) or {}
    return {name: payload[name] for name in _SAME_FOR_THE_WHOLE if name in payload}


def _ends_with_a_beginning_of(text: str, words: Iterable[str]) -> bool:
    return any(text.endswith(word[:length]) for word in words for length in range(1, len(word) + 1))
