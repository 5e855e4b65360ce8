from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from heartcode.routing.backend import Backend
from heartcode.routing.served_model import ServedModel
from heartcode.routing.unit_signs import UnitSigns
from heartcode.upstream.identity import Identity, Told


def identity(*names: str, path: str = "/m/a.gguf", **numbers: Any) -> Identity:
    return Identity(told=Told(names=frozenset(names), **numbers), path=path, written=1)


@pytest.mark.parametrize(
    ("wanted", "told", "is_other"),
    [
        (("stheno",), ("stheno",), False),
        (("stheno", "rp"), ("rp",), False),
        (("stheno", "rp"), ("stheno|rp",), False),  # as the role starts it
        (("stheno",), ("lumimaid",), True),
        (("stheno",), (), True),  # who does not say is not believed
        ((), ("lumimaid",), False),
        ((), (), False),
    ],
)
def test_the_settings_say_what_it_must_be(
    wanted: tuple[str, ...], told: tuple[str, ...], *, is_other: bool
) -> None:
    served = ServedModel("b", names=wanted)
    assert served.is_unknown
    assert not served.is_other
    served.note(identity(*told, n_ctx=512), served.process())
    assert (served.is_unknown, served.is_other, served.n_ctx) == (False, is_other, 512)


def test_after_a_failure_it_has_to_say_it_again() -> None:
    backend = Backend("http://127.0.0.1:1", served=ServedModel("b", names=("a",)))
    backend.served.note(identity("b", n_ctx=512), 0)
    backend.has_answered()
    assert not backend.is_up
    backend.has_failed("gone")
    assert backend.served.is_unknown
    # Until then it is what it was.
    assert (backend.served.is_other, backend.served.n_ctx) == (True, 512)
    backend.served.note(identity("a"), 0)
    backend.has_answered()
    assert backend.is_up


def test_another_process_of_its_unit_has_to_say_it_too(tmp_path: Path) -> None:
    (tmp_path / "llama").mkdir()
    waiting = tmp_path / "llama/0.waiting"
    waiting.touch()
    served = ServedModel("b", names=("a",), signs=UnitSigns(tmp_path, 0))
    asked = served.process()
    served.note(identity("a"), asked)
    assert not served.is_unknown
    os.utime(waiting, ns=(1, 1))
    assert served.is_unknown
    # One that was started between question and answer may have answered for another.
    served.note(identity("a"), asked)
    assert served.is_unknown
    served.note(identity("a"), served.process())
    assert not served.is_unknown


def test_weights_are_the_same_where_nothing_tells_them_apart() -> None:
    one = identity("a", size=5, parameters=8)
    assert one.has_weights_of(identity("b", size=5, parameters=8, n_ctx=512))
    for other in (
        identity("a", size=6, parameters=8),
        identity("a", size=5, parameters=9),
        identity("a", path="/m/b.gguf", size=5, parameters=8),
        Identity(told=one.told, path=one.path, written=2),
    ):
        assert not one.has_weights_of(other)


def test_two_quantisations_of_a_model() -> None:
    one = identity("a", parameters=8, ftype="Q4_K_M")
    assert one.is_other_quantisation_of(
        identity("a", path="/m/b.gguf", parameters=8, ftype="Q6_K", size=7)
    )
    for other in (
        identity("a", path="/m/b.gguf", parameters=9, ftype="Q6_K"),
        identity("a", path="/m/b.gguf", parameters=8, ftype="Q4_K_M"),  # another fine-tune
        identity("a", parameters=8, ftype="Q6_K"),  # a file that has been replaced
    ):
        assert not one.is_other_quantisation_of(other)
    assert not identity("a").is_other_quantisation_of(identity("a", path="/m/b.gguf", ftype="Q6_K"))
