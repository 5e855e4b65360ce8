from __future__ import annotations

from dataclasses import replace

from heartcode.upstream.identity import Identity, Told
from heartcode.warm.key import state_key

IDENTITY = Identity(
    told=Told(
        names=frozenset({"stheno"}),
        n_ctx=8192,
        ftype="Q4_K_M",
        parameters=8 * 10**9,
        size=5 * 10**9,
    ),
    path="/models/stheno.gguf",
    samples="5a" * 32,
    build="b11312-0c1e57098",
)


def key(identity: Identity, kv_cache: str = "q8_0 on") -> str:
    return state_key(identity, kv_cache=kv_cache)


def test_whatever_a_state_depends_on_is_in_its_key() -> None:
    told = IDENTITY.told
    others = [
        key(replace(IDENTITY, samples="6b" * 32)),
        key(replace(IDENTITY, told=replace(told, n_ctx=4096))),
        key(replace(IDENTITY, told=replace(told, ftype="Q6_K"))),
        key(replace(IDENTITY, told=replace(told, size=told.size + 1))),
        key(IDENTITY, "f16 on"),
        key(IDENTITY, "q8_0 off"),
    ]
    assert len({key(IDENTITY), *others}) == 1 + len(others)


def test_a_copy_of_the_file_under_another_name_and_another_build_have_the_same() -> None:
    other = replace(IDENTITY, path="/elsewhere.gguf", build="b11549-abc", written=7)
    assert key(other) == key(IDENTITY) != ""


def test_of_what_is_not_known_there_is_none() -> None:
    assert key(replace(IDENTITY, samples="")) == ""
    assert key(replace(IDENTITY, told=replace(IDENTITY.told, n_ctx=0))) == ""
