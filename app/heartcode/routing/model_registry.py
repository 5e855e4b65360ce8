"""Which models the rig serves, and which backends have each of them.

registry = ModelRegistry.of(backends, settings.models)
registry.chosen_by("stheno").backends  # those that have it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heartcode.errors import ApiError
from heartcode.routing.backend import Backend

# What SillyTavern asks /tokenize for while nobody has chosen a model: a text made of JavaScript's
# `undefined` (1.19.0, src/endpoints/tokenizers.js).
_UNDEFINED = "undefined"

# The gateway says here what a request means that names no model: the fleet's default, which need
# not be the rig's.
DEFAULT_HEADER = "X-HeartCode-Model"


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model, its names (the first is its id) and the backends that serve it."""

    names: tuple[str, ...]
    backends: tuple[Backend, ...]

    @property
    def id(self) -> str:
        """The name under which it is shown."""
        return self.names[0]


class ModelRegistry:
    """The rig's models; the first is the default.

    Without any model the names are unknown, and every backend serves every name.
    """

    def __init__(self, models: Sequence[Model], backends: Sequence[Backend]) -> None:
        self.models = tuple(models)
        self._any = Model(names=("",), backends=tuple(backends))
        self._by_name = {name: model for model in models for name in model.names}

    @classmethod
    def of(cls, backends: Sequence[Backend], names: Sequence[tuple[str, ...]]) -> ModelRegistry:
        """Take `names` of one model for all backends, or of one for each."""
        each = list(names) * len(backends) if len(names) == 1 else list(names)
        having: dict[tuple[str, ...], list[Backend]] = {}
        for backend, its_names in zip(backends, each, strict=False):
            having.setdefault(its_names, []).append(backend)
        models = [Model(names=n, backends=tuple(b)) for n, b in having.items()]
        return cls(models, backends)

    def find(self, name: object) -> Model:
        """Return the model called `name`.

        Raises:
            ApiError: 404, as OpenAI answers an unknown model.
        """
        model = self._by_name.get(name) if isinstance(name, str) else None
        if model is None:
            message = f"The model {name!r} does not exist."
            raise ApiError(404, message, code="model_not_found", param="model")
        return model

    def chosen_by(self, name: object, *, default: str | None = None) -> Model:
        """Return the model for a request's `model`; none or an empty one means the default.

        That is `default` if the rig has it, else its first. Where no names are known, it is a
        nameless one.

        Raises:
            ApiError: 404 for an unknown model.
        """
        if not self.models:
            return self._any
        if not name or (name == _UNDEFINED and name not in self._by_name):
            return self._by_name.get(default or "", self.models[0])
        return self.find(name)
