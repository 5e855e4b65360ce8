"""A set of settings that can be measured."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from heartcode_models.errors import ModelError
from heartcode_models.gguf.ggml_types import KV_TYPES


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What tuning decides, named as beside the UUID in ``llama_server_gpus``."""

    n_batch: int
    n_ubatch: int
    kv_type: str
    flash_attention: bool

    @property
    def works(self) -> bool:
        """Whether llama.cpp takes it and it is not another one by another name.

        Without flash attention the V cache cannot be quantised (``llama_init_from_model``,
        src/llama-context.cpp), and K and V are of one type here; a ubatch is never more than the
        batch.
        """
        return self.n_ubatch <= self.n_batch and (self.flash_attention or self.kv_type == "f16")

    def __str__(self) -> str:
        attention = "on" if self.flash_attention else "off"
        return f"{self.n_batch}/{self.n_ubatch} {self.kv_type} fa {attention}"

    def as_data(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any], where: str) -> "Candidate":
        """Check and take values by their names; others are left alone.

        Raises:
            ModelError: one is missing or cannot be.
        """
        return cls(**{name: checked(name, data.get(name), where) for name in NAMES})


NAMES = tuple(field.name for field in fields(Candidate))


def checked(name: str, value: Any, where: str) -> Any:
    """One value of a candidate.

    Raises:
        ModelError: it cannot be.
    """
    if name == "kv_type":
        good, kind = value in KV_TYPES, f"one of {', '.join(KV_TYPES)}"
    elif name == "flash_attention":
        good, kind = isinstance(value, bool), "true or false"
    else:
        good = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        kind = "a whole number from 1"
    if not good:
        raise ModelError(f"{where}: {name} must be {kind}, not {value!r}")
    return value
