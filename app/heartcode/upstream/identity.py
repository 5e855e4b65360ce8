"""What a llama-server says of itself: its model, the file of that, its context, its version.

    told = ask("127.0.0.1", 8081, timeout_s=2)     # names and numbers alone
    identity = identify("127.0.0.1", 8081, timeout_s=2)
    identity.is_called(("stheno",))
    identity.told.n_ctx   # tokens of one conversation

`GET /v1/models` has the names, the context and the numbers of the weights; `GET /props` the path of
the file, the version and what the model takes in (llama.cpp, tools/server/server-context.cpp,
get_res_model_info and get_res_props). Threads that do not compute answer both, with 503 until the
model is loaded.

Models of one kind and quantisation have the same numbers: samples of the file tell them apart, be
it on this host or on another one, or a file that was replaced under its name. Where the file cannot
be read it is known by its path and by when it was written.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import Any

from heartcode.upstream.exchange import Exchange, UpstreamRequest

HEADERS = {"User-Agent": "heartcode-probe"}
MODELS = UpstreamRequest(method="GET", path="/v1/models", headers=HEADERS)
PROPS = UpstreamRequest(method="GET", path="/props", headers=HEADERS)

# Both answers have kilobytes, the chat template among them.
_MAX_BODY_BYTES = 4 * 1024 * 1024
_ABSURD = 2**62
# What is read of a file to know it again: evenly spread, as fine-tunes of one model differ in their
# weights everywhere and in their headers perhaps nowhere. A megabyte takes a Celeron 5 ms.
_SAMPLES = 32
_SAMPLE_BYTES = 32 * 1024


@dataclass(frozen=True, kw_only=True)
class Told:
    """What `/v1/models` tells; what it does not tell is empty or 0.

    Attributes:
        names: the names of its model.
        n_ctx: the tokens of one conversation, prompt and answer.
        ftype: the quantisation, as llama.cpp calls it.
        parameters: how many the model has.
        size: bytes of its tensors.
    """

    names: frozenset[str] = frozenset()
    n_ctx: int = 0
    ftype: str = ""
    parameters: int = 0
    size: int = 0


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What one llama-server serves, in its own words.

    Attributes:
        told: names, context and numbers.
        path: the file that it was loaded from.
        written: when that file was, in nanoseconds; None where it cannot be seen from here.
        samples: SHA-256 of its size and of samples of it; "" where it cannot be read from here.
        build: its version, such as "b11312-0c1e57098"; "" if it does not tell.
        modalities: whether its model takes "vision", "audio" and "video"; what is not told is not
            in it.
    """

    told: Told = Told()
    path: str = ""
    written: int | None = None
    samples: str = ""
    build: str = ""
    modalities: Mapping[str, bool] = field(default_factory=dict)

    @property
    def n_ctx(self) -> int:
        """The tokens of one conversation; 0 if it does not say."""
        return self.told.n_ctx

    def is_called(self, names: tuple[str, ...]) -> bool:
        """Return whether its model has one of `names`, or all of them as one with `|` between."""
        return not self.told.names.isdisjoint((*names, "|".join(names)))

    def has_weights_of(self, other: Identity) -> bool:
        """Return whether both have loaded the same model, from one file or from copies of it."""
        if self.samples and other.samples:
            return (self.samples, *self._numbers) == (other.samples, *other._numbers)
        return (self.path, self.written, *self._numbers) == (
            other.path,
            other.written,
            *other._numbers,
        )

    def is_other_quantisation_of(self, other: Identity) -> bool:
        """Return whether both are one model in two quantisations, as far as numbers tell that.

        Fine-tunes of a model have its parameters too, so the names have to be the same besides.
        """
        mine, its = self.told, other.told
        same = mine.parameters == its.parameters > 0
        return same and mine.ftype != its.ftype and self.path != other.path

    @property
    def _numbers(self) -> tuple[object, ...]:
        return (self.told.ftype, self.told.parameters, self.told.size)

    def as_json(self) -> dict[str, Any]:
        """Return it for another host, in a form that `from_json()` reads."""
        told = {**asdict(self.told), "names": sorted(self.told.names)}
        return {"told": told, "path": self.path, "samples": self.samples}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Identity:
        """Return what another host has told of one of its backends.

        Its files are not this host's: `written` is left out.

        Raises:
            ValueError: it is of another shape.
        """
        try:
            told = value["told"]
            return cls(
                told=Told(
                    names=frozenset(map(_text, told["names"])),
                    n_ctx=_number(told["n_ctx"]),
                    ftype=_text(told["ftype"]),
                    parameters=_number(told["parameters"]),
                    size=_number(told["size"]),
                ),
                path=_text(value["path"]),
                samples=_text(value["samples"]),
            )
        except (LookupError, TypeError) as error:
            raise ValueError("this tells of no backend") from error

    def __str__(self) -> str:
        """Return names and file, for people."""
        names = " or ".join(sorted(self.told.names)) or "a model without a name"
        return f"{names} from {self.path}" if self.path else names


def ask(host: str, port: int, *, timeout_s: float) -> Told:
    """Return what the llama-server there tells of its model.

    Raises:
        BackendError: when it cannot be asked, LOADING before its model is there.
    """
    answer = _get(host, port, MODELS, timeout_s)
    with suppress(LookupError, TypeError):
        model = answer["data"][0]
        names = map(_name, (model["id"], *(model.get("aliases") or ())))
        numbers = model.get("meta") or {}
        return Told(
            names=frozenset(names) - {""},
            n_ctx=_number(numbers.get("n_ctx")),
            ftype=_text(numbers.get("ftype")),
            parameters=_number(numbers.get("n_params")),
            size=_number(numbers.get("size")),
        )
    return Told()


def identify(host: str, port: int, *, timeout_s: float) -> Identity:
    """Return what the llama-server there serves.

    Raises:
        BackendError: as in `ask()`.
    """
    told = ask(host, port, timeout_s=timeout_s)
    props = _get(host, port, PROPS, timeout_s)
    path = _text(props.get("model_path"))
    return Identity(
        told=told,
        path=path,
        written=_written(path),
        samples=_samples(path),
        build=_text(props.get("build_info")),
        modalities=_modalities(props.get("modalities")),
    )


def _get(host: str, port: int, request: UpstreamRequest, timeout_s: float) -> Mapping[str, Any]:
    """Return the JSON object of an answer; an empty one for what is none."""
    with Exchange(host, port) as exchange:
        exchange.send(request, connect_timeout_s=timeout_s, silence_timeout_s=timeout_s)
        body = exchange.read_all(_MAX_BODY_BYTES)
        if exchange.status != HTTPStatus.OK:
            return {}
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _name(value: object) -> str:
    """Return a name; llama-server calls a model that was given none by its file's path."""
    name = _text(value)
    return Path(name).stem if name.endswith(".gguf") else name


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _modalities(value: object) -> dict[str, bool]:
    told = value if isinstance(value, dict) else {}
    return {kind: is_taken for kind, is_taken in told.items() if isinstance(is_taken, bool)}


def _number(value: object) -> int:
    return value if isinstance(value, int) and 0 < value < _ABSURD else 0


def _written(path: str) -> int | None:
    if path:
        with suppress(OSError, ValueError):
            return Path(path).stat().st_mtime_ns
    return None


def _samples(path: str) -> str:
    if path:
        with suppress(OSError, ValueError):
            stat = Path(path).stat()
            return _sampled(path, stat.st_size, stat.st_mtime_ns)
    return ""


@lru_cache(maxsize=64)
def _sampled(path: str, size: int, _written: int) -> str:
    """Return what a file is known by; read once for all backends that have loaded it."""
    digest = sha256(b"%d\n" % size)
    with Path(path).open("rb", buffering=0) as file:
        for number in range(_SAMPLES):
            file.seek(number * max(0, size - _SAMPLE_BYTES) // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
            time.sleep(0)  # a slow disk's time is everybody's: in the proxy, others go on here
    return digest.hexdigest()
