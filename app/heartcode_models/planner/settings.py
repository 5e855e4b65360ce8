"""The settings that a plan decides, and those that a person has fixed."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from heartcode_models.errors import ModelError
from heartcode_models.gguf.ggml_types import KV_TYPES
from heartcode_models.gguf.model import Model

#: ``heartcode-llama-server`` refuses less.
SMALLEST_CTX = 256
LOAD_MODES = ("none", "mmap", "dio", "mlock")
#: No model has as many layers: ``--cpu-moe``, the experts of all.
_MOST_LAYERS = 9999
#: ``-ngl all``: every layer and the output, however many the model has (common/arg.cpp).
ALL_LAYERS = "all"


def layers_of(n_gpu_layers: int | str, model: Model) -> int:
    """How many layers a value of the inventory means, the output counted as one.

    33 are all of a Llama 8B, and not of a model with more layers
    (``llama_model::n_gpu_layers``, src/llama-model.cpp).
    """
    return model.all_layers if n_gpu_layers == ALL_LAYERS else int(n_gpu_layers)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One llama-server's settings, named as beside the UUID in ``llama_server_gpus``.

    Attributes:
        n_ctx: Tokens of one conversation.
        slots: Conversations at a time.
        kv_type: Type of both K and V.
        n_batch: Tokens of a prompt that llama-server hands over together.
        n_ubatch: Tokens that the card computes together.
        n_gpu_layers: Layers on the card, the output counted as one.
        n_cpu_moe: So many layers, from the first on, whose experts stay in the host's RAM.
    """

    n_ctx: int
    slots: int
    kv_type: str
    n_batch: int
    n_ubatch: int
    n_gpu_layers: int
    n_cpu_moe: int = 0

    @property
    def ctx_per_slot(self) -> int:
        """What llama.cpp makes of it: a multiple of 256 (``llama_context``, llama-context.cpp)."""
        return -(-self.n_ctx // 256) * 256

    @property
    def computed_together(self) -> int:
        """Tokens of the largest graph: ubatch, but no more than the batch or the context."""
        return min(self.n_ubatch, self.n_batch, self.ctx_per_slot * self.slots)


@dataclass(frozen=True, kw_only=True)
class HandSet:
    """What a person has fixed; None is left to the planner. `load_mode` is the whole rig's.

    All layers are what the planner takes anyway, so who asks for `ALL_LAYERS` has fixed nothing.
    """

    n_ctx: int | None = None
    slots: int | None = None
    kv_type: str | None = None
    n_batch: int | None = None
    n_ubatch: int | None = None
    n_gpu_layers: int | None = None
    n_cpu_moe: int | None = None
    n_threads: int | None = None
    cache_ram_mib: int | None = None
    load_mode: str | None = None

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str) -> "HandSet":
        """Check and take values by their names; unknown names are left alone.

        Args:
            values: As in the inventory; strings of digits are numbers (``-e n_ctx=4096``).
            where: Put before the message of an error.

        Raises:
            ModelError: a value cannot work, whatever the card.
        """
        taken: dict[str, Any] = {}
        for field in fields(cls):
            value = values.get(field.name)
            if value is None or (field.name == "n_gpu_layers" and value == ALL_LAYERS):
                continue
            if field.name == "n_cpu_moe" and value == ALL_LAYERS:
                value = _MOST_LAYERS
            taken[field.name] = _checked(field.name, value, where)
        return cls(**taken)

    def over(self, other: "HandSet") -> "HandSet":
        """These values, and `other`'s where there are none here."""
        own = {f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None}
        return replace(other, **own)


_MINIMUM = {
    "n_ctx": SMALLEST_CTX,
    "slots": 1,
    "n_batch": 1,
    "n_ubatch": 1,
    "n_gpu_layers": 0,
    "n_cpu_moe": 0,
    "n_threads": 1,
    "cache_ram_mib": 0,
}
_WORDS = {"kv_type": KV_TYPES, "load_mode": LOAD_MODES}


def _checked(name: str, value: Any, where: str) -> int | str:
    if name in _WORDS:
        if value not in _WORDS[name]:
            raise ModelError(
                f"{where}: {name} must be one of {', '.join(_WORDS[name])}, not {value!r}"
            )
        return str(value)
    try:
        number = int(str(value))
    except ValueError:
        kind = "all or a whole number" if name == "n_gpu_layers" else "a whole number"
        raise ModelError(f"{where}: {name} must be {kind}, not {value!r}") from None
    if number < _MINIMUM[name]:
        raise ModelError(f"{where}: {name} must be at least {_MINIMUM[name]}, not {number}")
    return number
