from __future__ import annotations

import pytest
from heartcode.errors import ApiError
from heartcode.routing.backend import Backend
from heartcode.routing.model_registry import ModelRegistry

BACKENDS = tuple(Backend(f"http://127.0.0.1:{port}") for port in (1, 2, 3))


def test_one_model_for_all_backends() -> None:
    registry = ModelRegistry.of(BACKENDS, [("a", "b")])
    assert (
        registry.chosen_by("a").backends
        == registry.chosen_by("b").backends
        == registry.chosen_by(None).backends
        == BACKENDS
    )


def test_a_model_for_each_backend() -> None:
    registry = ModelRegistry.of(BACKENDS, [("a",), ("b", "c"), ("a",)])
    assert [model.id for model in registry.models] == ["a", "b"]
    assert (
        registry.chosen_by("a").backends
        == registry.chosen_by("").backends
        == (BACKENDS[0], BACKENDS[2])
    )
    assert registry.chosen_by("c").backends == (BACKENDS[1],)


@pytest.mark.parametrize("name", [None, "", "undefined"])
def test_without_a_name_the_default_serves(name: object) -> None:
    assert ModelRegistry.of(BACKENDS, [("a",), ("b",), ("b",)]).chosen_by(name).backends == (
        BACKENDS[0],
    )


@pytest.mark.parametrize("name", [None, "", "undefined"])
@pytest.mark.parametrize(("default", "backend"), [("b", 1), ("c", 1), ("x", 0), ("", 0)])
def test_the_gateway_s_default_comes_before_the_rig_s(
    name: object, default: str, backend: int
) -> None:
    registry = ModelRegistry.of(BACKENDS, [("a",), ("b", "c"), ("a",)])
    assert BACKENDS[backend] in registry.chosen_by(name, default=default).backends
    assert registry.chosen_by("a", default=default).id == "a"


@pytest.mark.parametrize("name", ["c", "Undefined", 7, ["a"]])
def test_a_wrong_name_is_no_missing_one(name: object) -> None:
    with pytest.raises(ApiError) as error:
        ModelRegistry.of(BACKENDS, [("a",)]).chosen_by(name)
    assert (error.value.status, error.value.code) == (404, "model_not_found")


def test_a_model_may_be_called_undefined() -> None:
    registry = ModelRegistry.of(BACKENDS, [("a",), ("undefined",), ("a",)])
    assert registry.chosen_by("undefined").backends == (BACKENDS[1],)


@pytest.mark.parametrize("name", ["a", "", None, 7])
def test_without_names_every_backend_serves_every_name(name: object) -> None:
    assert ModelRegistry.of(BACKENDS, []).chosen_by(name).backends == BACKENDS
