from __future__ import annotations

from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import pytest
from heartcode.routing.policy import POLICIES
from heartcode.settings import TABLE, Settings, SettingsError
from hypothesis import given
from hypothesis import strategies as st

BACKENDS = {"HEARTCODE_BACKENDS": "http://127.0.0.1:8081"}


def test_defaults_are_those_of_the_first_readme() -> None:
    settings = Settings.from_env(BACKENDS)
    assert settings.backends == ("http://127.0.0.1:8081",)
    assert (settings.port, settings.metrics_port) == (8080, 9091)
    assert settings.metrics_dir == Path("/run/heartcode/metrics")


def test_the_table_has_one_row_for_each_field() -> None:
    assert sorted(row.field for row in TABLE) == sorted(field.name for field in fields(Settings))
    assert len({row.variable for row in TABLE}) == len(TABLE)
    assert all(row.sentence.endswith(".") and row.unit for row in TABLE)


def test_an_empty_variable_counts_as_absent() -> None:
    assert Settings.from_env({**BACKENDS, "PORT": " "}).port == 8080


def test_several_backends() -> None:
    env = {"HEARTCODE_BACKENDS": "http://127.0.0.1:8081/, http://[::1]:8082"}
    assert Settings.from_env(env).backends == ("http://127.0.0.1:8081", "http://[::1]:8082")


def test_all_problems_are_reported_at_once() -> None:
    env = {
        "HEARTCODE_BACKENDS": "http://127.0.0.1:8081,localhost",
        "PORT": "70000",
        "HEARTCODE_LISTEN": "rig1",
        "HEARTCODE_RUN_DIR": "run",
        "HEARTCODE_LOG_LEVEL": "loud",
        "HEARTCODE_SILENCE_TIMEOUT_S": "nan",
        "HEARTCODE_MAX_BODY_BYTES": "10 MB",
        "HEARTCODE_GRACEFUL_TIMEOUT_S": "600",
    }
    with pytest.raises(SettingsError) as raised:
        Settings.from_env(env)
    assert len(raised.value.problems) == len(env)
    for variable in env:
        assert variable in str(raised.value)


def test_slots_are_for_each_backend_or_for_all() -> None:
    env = {"HEARTCODE_BACKENDS": "http://127.0.0.1:8081,http://127.0.0.1:8082"}
    for text, slots in (("", (1, 1)), ("3", (3, 3)), ("2, 1", (2, 1))):
        settings = Settings.from_env({**env, "HEARTCODE_SLOTS": text})
        assert settings.slots_of_backends() == slots


def test_models_are_for_each_backend_or_for_all() -> None:
    env = {"HEARTCODE_BACKENDS": "http://127.0.0.1:8081,http://127.0.0.1:8082"}
    for text, models in (("", ("", "")), ("a|b", ("a", "a")), ("a|b, c", ("a", "c"))):
        settings = Settings.from_env({**env, "HEARTCODE_MODEL": text})
        assert settings.models_of_backends() == models


def test_speeds_are_for_each_backend_or_for_all() -> None:
    settings = Settings.from_env(
        {
            "HEARTCODE_BACKENDS": "http://127.0.0.1:1,http://127.0.0.1:2",
            "HEARTCODE_PROMPT_SPEEDS": "310.5, 0",
            "HEARTCODE_DECODE_SPEEDS": "24",
        }
    )
    assert settings.speeds_of_backends() == ((310.5, 24.0), (0.0, 24.0))


@pytest.mark.parametrize("speeds", ["1,2,3", "fast", "1,", "-1", "nan", "inf", "1000001"])
def test_speeds_that_cannot_be(speeds: str) -> None:
    backends = {"HEARTCODE_BACKENDS": "http://127.0.0.1:1,http://127.0.0.1:2"}
    with pytest.raises(SettingsError, match="HEARTCODE_DECODE_SPEEDS"):
        Settings.from_env({**backends, "HEARTCODE_DECODE_SPEEDS": speeds})


@pytest.mark.parametrize("slots", ["1,1", "0", "a", "1,", "65", "-1"])
def test_slots_that_do_not_fit(slots: str) -> None:
    with pytest.raises(SettingsError, match="HEARTCODE_SLOTS"):
        Settings.from_env({**BACKENDS, "HEARTCODE_SLOTS": slots})


def test_cards_are_named_for_all_backends_or_not_at_all() -> None:
    assert Settings.from_env(BACKENDS).gpu_uuids == ()
    one = Settings.from_env({**BACKENDS, "HEARTCODE_GPU_UUIDS": " GPU-a "})
    assert one.gpu_uuids == (("GPU-a",),)
    group = Settings.from_env({**BACKENDS, "HEARTCODE_GPU_UUIDS": "GPU-a+GPU-c + GPU-b"})
    assert group.gpu_uuids == (("GPU-a", "GPU-c", "GPU-b"),)


@pytest.mark.parametrize(
    "uuids", ["GPU-a,GPU-b", "GPU-a,", "GPU-a,GPU-a", "GPU-a+GPU-a", "GPU-a+", "+"]
)
def test_cards_that_do_not_fit(uuids: str) -> None:
    with pytest.raises(SettingsError, match="HEARTCODE_GPU_UUIDS"):
        Settings.from_env({**BACKENDS, "HEARTCODE_GPU_UUIDS": uuids})


def test_every_policy_can_be_chosen() -> None:
    for name in POLICIES:
        assert Settings.from_env({**BACKENDS, "HEARTCODE_POLICY": name}).policy == name
    with pytest.raises(SettingsError, match=f"is not one of {', '.join(POLICIES)}$"):
        Settings.from_env({**BACKENDS, "HEARTCODE_POLICY": "random"})


@pytest.mark.parametrize(
    "backends",
    [
        "https://127.0.0.1:8081",
        "http://127.0.0.1",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:8081/v1",
        "http://user@127.0.0.1:8081",
        "http://127.0.0.1:8081,",
        "http://127.0.0.1:8081,http://127.0.0.1:8081/",
        "http://[::1:8081",
    ],
)
def test_backends_that_are_no_base_urls(backends: str) -> None:
    with pytest.raises(SettingsError, match="HEARTCODE_BACKENDS"):
        Settings.from_env({"HEARTCODE_BACKENDS": backends})


def test_the_two_ports_differ() -> None:
    with pytest.raises(SettingsError, match="PORT and METRICS_PORT are the same"):
        Settings.from_env({**BACKENDS, "METRICS_PORT": "8080"})


def test_the_pauses_between_probes_only_grow() -> None:
    with pytest.raises(SettingsError, match="HEARTCODE_PROBE_PAUSE_S is above"):
        Settings.from_env({**BACKENDS, "HEARTCODE_PROBE_PAUSE_S": "11"})


@given(st.dictionaries(st.sampled_from([row.variable for row in TABLE]), st.text()))
def test_whatever_is_given_nothing_but_settings_errors_are_raised(env: dict[str, str]) -> None:
    with suppress(SettingsError):
        Settings.from_env(env)


@pytest.mark.parametrize(
    ("model", "models"),
    [
        ("", ()),
        ("stheno", (("stheno",),)),
        ("stheno|rp, lumimaid", (("stheno", "rp"), ("lumimaid",))),
        ("a|b,a|b", (("a", "b"), ("a", "b"))),
    ],
)
def test_models(model: str, models: tuple[tuple[str, ...], ...]) -> None:
    two = "http://127.0.0.1:8081,http://127.0.0.1:8082"
    env = {"HEARTCODE_BACKENDS": two, "HEARTCODE_MODEL": model}
    assert Settings.from_env(env).models == models


@pytest.mark.parametrize("model", ["a,b,c", "a,", "a||b,c", "a|c,b|c", "a|b,b|a", "a|b,a"])
def test_models_that_cannot_be_told_apart(model: str) -> None:
    two = "http://127.0.0.1:8081,http://127.0.0.1:8082"
    with pytest.raises(SettingsError, match="HEARTCODE_MODEL"):
        Settings.from_env({"HEARTCODE_BACKENDS": two, "HEARTCODE_MODEL": model})
