"""Lets another backend go on with an answer, from the very tokens that it consists of.

    continuation = Continuation(path=..., fields=..., pieces=..., head=...)
    resumed = continuation.asked_of(ask)   # `ask(path, fields)` puts a question to that backend
    # POST resumed.body to resumed.path; what comes back goes through resumed.splice.rewrite()

A text that is read back is not always the tokens that it was written with: a blank line at its end
may be one token where it was two, and something else follows it. So the backend is asked which
token each piece of the answer was, as llama-server sends nearly every token in an event of its own,
and gets a prompt of the client's text and these numbers. For a chat it is asked what its template
makes of the messages, and goes on with that as a completion: no template has to know of answers
that have begun, and nothing is repeated.

Where the pieces do not make up the text again (tokenizers that put a space before each text) the
text itself is put behind the prompt, and counted by what both are tokenized to.

docs/adr/0027-resuming-from-tokens.md says what else was thought of.

No sockets here: bytes and JSON in, bytes and JSON out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heartcode.relay.splice import Splice
from heartcode.upstream import progress

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
NATIVE = "/completion"  # llama-server's own
LIMITS = ("max_tokens", "max_completion_tokens", "n_predict")

# What makes a chat's prompt, or says what of its answer is more than text; a completion takes none
# of it, and refuses some.
_OF_CHATS_ALONE = {
    *("messages", "chat_template", "chat_template_kwargs", "add_generation_prompt"),
    *("continue_final_message", "echo", "suffix", "best_of", "prompt"),
    *("tools", "tool_choice", "functions", "function_call", "parallel_tool_calls"),
    *("response_format", "reasoning_format", "reasoning_effort", "reasoning_control"),
    *("reasoning_budget_tokens", "thinking_budget_tokens", "enable_thinking"),
    *("logprobs", "top_logprobs"),
}

# Puts a question to the backend that is to go on: path and body to the JSON of its answer.
Ask = Callable[[str, Mapping[str, Any]], Any]


class ContinuationError(Exception):
    """The backend does not tell what is needed to go on."""


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """The request for the next backend, and what makes its answer a part of the first one."""

    path: str
    body: bytes
    splice: Splice


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """What another backend needs to know to go on.

    Attributes:
        path, fields: the client's request.
        has_text: whether the client has got any text; if not, it gets the answer from its start.
        pieces: what has been generated of that text, divided as it came.
        head: what all events of the answer have in common.
    """

    path: str
    fields: Mapping[str, Any]
    has_text: bool
    pieces: Sequence[str]
    head: Mapping[str, Any]

    def asked_of(self, ask: Ask) -> Resumed:
        """Return the request that goes on.

        Raises:
            ContinuationError: when the backend's answers are none.
            Exception: what `ask` raises.
        """
        fields = dict(self.fields)
        path = self.path
        try:
            if path == CHAT and self.has_text:
                path = COMPLETIONS
                prompt = ask("/apply-template", self.fields)["prompt"]
                fields = {k: v for k, v in fields.items() if k not in _OF_CHATS_ALONE}
                fields["prompt"], tokens = self._prompt(ask, prompt)
            elif path == CHAT:
                tokens = 0
            else:
                fields["prompt"], tokens = self._prompt(ask, fields["prompt"])
        except (KeyError, TypeError, ValueError) as error:
            raise ContinuationError("an answer of an unknown shape") from error
        limits = {name: fields[name] for name in LIMITS if fields.get(name) is not None}
        is_spent = _reduce_limits(fields, tokens)
        fields.pop(progress.FIELD, None)  # nobody waits to see it
        splice = Splice(
            head=self.head,
            is_chat=self.path == CHAT,
            tells_usage=_tells_usage(fields),
            text="".join(self.pieces),
            tokens=tokens,
            limits=limits,
            is_spent=is_spent,
        )
        return Resumed(path=path, body=json.dumps(fields).encode(), splice=splice)

    def _prompt(self, ask: Ask, prompt: Any) -> tuple[Any, int]:
        """Return the prompt that goes on, and how many of its tokens were generated.

        That may be one that goes on itself, with a text and the tokens of another rig's answer.
        """
        if not self.pieces:
            return prompt, 0
        text = "".join(self.pieces)
        is_text = isinstance(prompt, str)
        try:
            tokens = self._tokens(ask, text)
            if tokens is not None:
                return [*([prompt] if is_text else prompt), *tokens], len(tokens)
            if is_text:
                return self._prompt_of_text(ask, prompt, text)
        except (KeyError, TypeError, ValueError):
            # It tells no tokens. A text that may be read in another way is better than none.
            if is_text:
                return prompt + text, len(self.pieces)
        raise ValueError("tokens can be followed by tokens alone")

    def _tokens(self, ask: Ask, text: str) -> list[int] | None:
        """Return the tokens of `text`, divided as it came; None if they do not make it up again."""
        # Each piece for itself, and none is a control token: those have no text.
        asked = {"content": self.pieces, "parse_special": False, "with_pieces": True}
        tokens = ask("/tokenize", asked)["tokens"]
        if b"".join(_bytes(token["piece"]) for token in tokens) == text.encode():
            return [int(token["id"]) for token in tokens]
        return None

    def _prompt_of_text(self, ask: Ask, prompt: str, text: str) -> tuple[str, int]:
        before, all_of_it = (
            len(ask("/tokenize", {"content": content, "add_special": True})["tokens"])
            for content in (prompt, prompt + text)
        )
        return prompt + text, max(1, all_of_it - before)


def _bytes(piece: str | list[int]) -> bytes:
    """Return the bytes of a token: llama-server lists them where they are no whole characters."""
    return piece.encode() if isinstance(piece, str) else bytes(piece)


def _tells_usage(fields: Mapping[str, Any]) -> bool:
    options = fields.get("stream_options")
    return isinstance(options, Mapping) and options.get("include_usage") is True


def _reduce_limits(fields: dict[str, Any], tokens: int) -> bool:
    """Take `tokens` off what may be generated; return whether nothing is left."""
    is_spent = False
    for name in LIMITS:
        limit = fields.get(name)
        # -1 is no limit; for 0 llama-server generates a token all the same.
        if limit is not None and limit >= 0:
            is_spent = is_spent or limit <= tokens
            fields[name] = max(1, limit - tokens)
    return is_spent
