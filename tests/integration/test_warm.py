"""Conversations that outlive their slot, with the real llama-server.

The model counts, and the proxy is told that it reads slowly: what is short is worth saving then.
"""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from heartcode.routing.throughput import Throughput

from tests.integration.conftest import StartExporter, StartLlamas, StartProxy
from tests.integration.processes import Llama, Proxy, counted_to, wait_until
from tools.bench.real_models import SMOLLM2

N_CTX = 4096
SETTING = "The lamps went out one by one as the tide crept over the stones of the old harbour. "


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Where conversations are kept."""
    path = tmp_path / "conversations"
    path.mkdir()
    return path


@pytest.fixture
def start_llama(llama_servers: StartLlamas, files: Path) -> Any:
    def start(**options: Any) -> Llama:
        flags = f"--slot-save-path {files} " + options.pop("flags", "")
        given = {"n_ctx": N_CTX, **options}
        (llama,) = llama_servers(1, flags=flags, **given)
        return llama

    return start


def settings(files: Path, **more: str) -> dict[str, str]:
    return {
        "HEARTCODE_SLOTS": "2",
        "HEARTCODE_WARM_MIB": "2048",
        "HEARTCODE_WARM_DIR": str(files),
        "HEARTCODE_WARM_IDLE_S": "0.1",
        "HEARTCODE_WARM_MIN_TOKENS": "100",
        "HEARTCODE_PROBE_IDLE_S": "86400",
        "HEARTCODE_PROMPT_SPEEDS": "100",
        **more,
    }


def talk(number: int, turns: int = 1, *, length: int = 10) -> dict[str, Any]:
    messages = [{"role": "system", "content": f"Tale {number}. " + SETTING * length}]
    for turn in range(turns):
        messages.append({"role": "user", "content": f"{turn}. What happens next?"})
        messages.append({"role": "assistant", "content": counted_to(8)})
    return {"messages": messages[:-1], "max_tokens": 8, "temperature": 0}


def ask(proxy: Proxy, **fields: Any) -> dict[str, Any]:
    """Ask; return what the log says of it, with the answer's text."""
    answer = proxy.post(**fields)
    assert answer.ok, answer.text
    line = proxy.log_line(answer.headers["X-Request-Id"])
    return {**line, "text": answer.json()["choices"][0]["message"]["content"]}


def words(files: Path) -> list[Path]:
    return sorted(files.glob("*.json"))


def await_saved(files: Path, how_many: int = 1) -> None:
    wait_until(lambda: len(words(files)) == how_many, f"{how_many} conversations are saved")


def restart(llama: Llama, start_llama: Any, proxy: Proxy, **options: Any) -> Llama:
    """Kill a llama-server, and start another one in its place."""
    proxy_knew = len(proxy.log_lines("backend"))
    llama.kill()
    wait_until(lambda: len(proxy.log_lines("backend")) > proxy_knew, "its end was noticed")
    anew: Llama = start_llama(port=llama.port, **options)
    wait_until(lambda: proxy.log_lines("backend")[-1]["up"], "it is believed to work")
    return anew


def test_a_conversation_outlives_its_llama_server(
    start_llama: Any, start_proxy: StartProxy, start_exporter: StartExporter, files: Path
) -> None:
    llama = start_llama()
    proxy = start_proxy(llama.url, **settings(files))
    exporter = start_exporter(proxy)
    first = ask(proxy, **talk(1))
    assert first["restored_tokens"] == 0
    unbroken = ask(proxy, **talk(1, 2))
    assert unbroken["restored_tokens"] == 0
    assert unbroken["cached_tokens"] > 500
    await_saved(files)
    assert {path.stat().st_mode & 0o777 for path in files.iterdir()} == {0o600}
    assert files.stat().st_mode & 0o777 == 0o700

    restart(llama, start_llama, proxy)
    again = ask(proxy, **talk(1, 2))
    assert again["restored_tokens"] > 0.9 * again["prompt_tokens"]
    assert again["restored_tokens"] <= again["cached_tokens"]
    assert again["text"] == unbroken["text"]
    assert exporter.value("inference_tokens_total", kind="restored") == again["restored_tokens"]
    assert exporter.value("warm_restores_total", result="restored") == 1
    assert exporter.value("warm_bytes") > 100_000
    assert exporter.value("warm_conversations") == 1


def test_what_was_saved_outlives_the_proxy(
    start_llama: Any, start_proxy: StartProxy, files: Path
) -> None:
    llama = start_llama()
    proxy = start_proxy(llama.url, **settings(files))
    ask(proxy, **talk(1))
    await_saved(files)
    proxy.stop()
    llama.kill()
    start_llama(port=llama.port)
    proxy.start()
    assert ask(proxy, **talk(1, 2))["restored_tokens"] > 500


@pytest.mark.parametrize("how", ["restart", "kill -9", "reload"])
def test_what_was_learnt_of_speeds_outlives_the_proxy(
    start_llama: Any, start_proxy: StartProxy, files: Path, how: str
) -> None:
    llama = start_llama()
    file = files.parent / "learnt" / "speeds.json"
    file.parent.mkdir()
    own = {"HEARTCODE_LEARNT_DIR": str(file.parent), "HEARTCODE_PROMPT_SPEEDS": "0"}
    proxy = start_proxy(llama.url, **settings(files, **own))
    ask(proxy, **talk(1))
    wait_until(file.exists, "what was learnt is kept")
    assert file.stat().st_mode & 0o777 == 0o600
    if how == "restart":
        assert proxy.stop() == 0
        proxy.start()
    elif how == "kill -9":
        os.kill(proxy.worker_pid(), signal.SIGKILL)
    else:
        assert proxy.reload().returncode == 0
    wait_until(lambda: proxy.log_lines("speeds_recalled") != [], "it goes on with that")
    name = llama.url.removeprefix("http://")
    speeds = Throughput(Throughput())
    speeds.go_on_with(json.loads(file.read_text().splitlines()[0])["backends"][name]["learnt"])
    (line,) = proxy.log_lines("speeds_recalled")
    assert line["backend"] == name
    assert line["prompt"] == round(speeds.prompt.value, 1)
    assert line["decode"] == round(speeds.decode.value, 1)

    # With other cards it begins anew.
    proxy.stop()
    proxy.env["HEARTCODE_GPU_UUIDS"] = "GPU-1+GPU-2"
    proxy.start()
    assert len(proxy.log_lines("speeds_recalled")) == 1
    assert proxy.log_lines("speeds_dropped") == proxy.log_lines("keeper_failed") == []


def test_a_conversation_goes_on_on_another_card_of_the_rig(
    start_llama: Any, start_proxy: StartProxy, files: Path
) -> None:
    one, other = start_llama(), start_llama()
    proxy = start_proxy(one.url, other.url, **settings(files))
    first = ask(proxy, **talk(1))
    await_saved(files)
    gone = one if first["backend"] == one.url.removeprefix("http://") else other
    gone.kill()
    second = ask(proxy, **talk(1, 2))
    assert second["backend"] != first["backend"]
    assert second["restored_tokens"] > 500


def test_what_loses_its_slot_comes_back(
    start_llama: Any, start_proxy: StartProxy, files: Path
) -> None:
    """Three conversations take turns in one slot, without a pause in which it could be saved."""
    llama = start_llama(slots=1, flags="--cache-ram 0")
    proxy = start_proxy(
        llama.url,
        **settings(files, HEARTCODE_SLOTS="1", HEARTCODE_WARM_IDLE_S="3600"),
    )
    for number in (1, 2, 3):
        ask(proxy, **talk(number))
    await_saved(files, 2)
    assert ask(proxy, **talk(1, 2))["restored_tokens"] > 500
    await_saved(files, 3)
    assert ask(proxy, **talk(2, 2))["restored_tokens"] > 500


@pytest.mark.parametrize(
    "damage",
    [
        "cut",
        *(pytest.param(kind, marks=pytest.mark.ci) for kind in ("changed", "gone", "word changed")),
    ],
)
def test_a_damaged_file_is_dropped_and_the_answer_is_the_same(
    start_llama: Any, start_proxy: StartProxy, files: Path, damage: str
) -> None:
    llama = start_llama()
    proxy = start_proxy(llama.url, **settings(files))
    unbroken = ask(proxy, **talk(1))
    await_saved(files)
    (state,) = files.glob("*.kv")
    if damage == "cut":
        with state.open("r+b") as file:
            file.truncate(state.stat().st_size // 2)
    elif damage == "changed":
        with state.open("r+b") as file:
            file.seek(state.stat().st_size // 2)
            file.write(b"\xa5" * 4096)
    elif damage == "gone":
        state.unlink()
    else:
        (word,) = words(files)
        word.write_text(word.read_text().replace('"tokens"', '"takens"'))
        proxy.stop()
        proxy.start()
    restart(llama, start_llama, proxy)
    again = ask(proxy, **talk(1))
    assert again["restored_tokens"] == 0
    assert again["text"] == unbroken["text"]
    assert not state.exists() or damage == "word changed"


@pytest.mark.ci
def test_nothing_is_restored_into_another_context_or_kind_of_cache(
    start_llama: Any, start_proxy: StartProxy, files: Path
) -> None:
    llama = start_llama()
    proxy = start_proxy(llama.url, **settings(files))
    unbroken = ask(proxy, **talk(1))
    await_saved(files)
    llama = restart(llama, start_llama, proxy, n_ctx=2 * N_CTX)
    assert ask(proxy, **talk(1, 2))["restored_tokens"] == 0
    await_saved(files, 2)
    # Without a unit nobody says that the type has changed: llama-server refuses the file itself.
    restart(llama, start_llama, proxy, flags="-ctk f16 -ctv f16")
    again = ask(proxy, **talk(1))
    assert again["restored_tokens"] == 0
    assert again["text"].split()[:2] == unbroken["text"].split()[:2]
    assert [line["result"] for line in proxy.log_lines("not_restored")] == ["refused"]


def test_a_unit_says_that_the_kind_of_cache_is_another_one(
    start_llama: Any, start_proxy: StartProxy, files: Path
) -> None:
    llama = start_llama()
    proxy = start_proxy(llama.url, awaited=False, **settings(files))
    sign = proxy.run_dir / "llama" / "0.kv"
    sign.parent.mkdir()
    sign.write_text("q8_0 on\n")
    wait_until(lambda: proxy.log_lines("backend") != [], "it was probed")
    ask(proxy, **talk(1))
    await_saved(files)
    sign.write_text("f16 on\n")
    restart(llama, start_llama, proxy, flags="-ctk f16 -ctv f16")
    assert ask(proxy, **talk(1))["restored_tokens"] == 0
    assert proxy.log_lines("not_restored") == []


@pytest.mark.ci
def test_files_may_be_deleted_at_any_time_and_old_ones_are(
    start_llama: Any, start_proxy: StartProxy, files: Path
) -> None:
    llama = start_llama()
    proxy = start_proxy(llama.url, **settings(files, HEARTCODE_WARM_KEEP_S="5"))
    ask(proxy, **talk(1))
    await_saved(files)
    for path in files.iterdir():
        if path.name != "secret":
            path.unlink()
    assert ask(proxy, **talk(1, 2))["cached_tokens"] > 500
    await_saved(files)
    wait_until(lambda: words(files) == [], "it is too old")


def test_a_llama_server_that_saves_nothing_is_used_as_before(
    llama_servers: StartLlamas, start_proxy: StartProxy, files: Path
) -> None:
    (llama,) = llama_servers(1, n_ctx=N_CTX)
    proxy = start_proxy(llama.url, **settings(files))
    ask(proxy, **talk(1))
    wait_until(lambda: proxy.log_lines("not_saved") != [], "it was asked")
    assert ask(proxy, **talk(1, 2))["cached_tokens"] > 500
    assert [line["result"] for line in proxy.log_lines("not_saved")] == ["refused"]


def test_a_directory_that_is_no_use_turns_it_off(
    start_llama: Any, start_proxy: StartProxy, files: Path
) -> None:
    llama = start_llama()
    nowhere = files / "file"
    nowhere.write_text("")
    proxy = start_proxy(llama.url, **settings(files, HEARTCODE_WARM_DIR=str(nowhere)))
    assert ask(proxy, **talk(1))["restored_tokens"] == 0
    assert len(proxy.log_lines("warm_off")) == 1


@pytest.mark.ci
def test_a_real_model_goes_on_as_if_nothing_had_happened(
    start_llama: Any, start_proxy: StartProxy, files: Path
) -> None:
    llama = start_llama(model=SMOLLM2.file(), batch=32)
    proxy = start_proxy(llama.url, **settings(files, HEARTCODE_WARM_MIN_TOKENS="50"))
    fields = talk(1, 2, length=3)
    unbroken = ask(proxy, **fields)
    await_saved(files)
    restart(llama, start_llama, proxy, model=SMOLLM2.file(), batch=32)
    again = ask(proxy, **fields)
    assert again["restored_tokens"] > 0.9 * again["prompt_tokens"]
    assert again["text"] == unbroken["text"] != ""


@pytest.mark.ci
def test_what_is_broken_off_in_mid_save_is_nothing(
    start_llama: Any, start_proxy: StartProxy, files: Path
) -> None:
    llama = start_llama()
    proxy = start_proxy(llama.url, **settings(files))
    ask(proxy, **talk(1))
    await_saved(files)
    proxy.stop()
    (word,) = words(files)
    word.unlink()
    half = files / f"{'0' * 32}.part"
    half.write_bytes(b"half")
    proxy.start()
    restart(llama, start_llama, proxy)
    assert ask(proxy, **talk(1))["restored_tokens"] == 0
    assert json.dumps(proxy.log_lines("keeper_failed")) == "[]"


def test_a_stop_waits_for_what_is_not_saved_yet(
    start_llama: Any, start_proxy: StartProxy, files: Path
) -> None:
    llama = start_llama()
    signs = files.parent / "run" / "llama"
    signs.mkdir(parents=True)
    proxy = start_proxy(llama.url, **settings(files, HEARTCODE_WARM_IDLE_S="3600"))
    ask(proxy, **talk(1))
    wait_until((signs / "0.unsaved").exists, "the unit is told to wait")
    assert words(files) == []
    (signs / "0.stopped").write_text(str(time.clock_gettime(time.CLOCK_BOOTTIME)))
    wait_until(lambda: not (signs / "0.unsaved").exists(), "the unit need not wait any more")
    assert len(words(files)) == 1
    restart(llama, start_llama, proxy)
    assert ask(proxy, **talk(1, 2))["restored_tokens"] > 500


def test_a_restart_that_nobody_has_noticed_is_one(
    start_llama: Any, start_proxy: StartProxy, files: Path
) -> None:
    llama = start_llama()
    signs = files.parent / "run" / "llama"
    signs.mkdir(parents=True)
    (signs / "0.waiting").write_text("1\n")
    proxy = start_proxy(llama.url, **settings(files))
    ask(proxy, **talk(1))
    await_saved(files)
    llama.kill()
    (signs / "0.waiting").write_text("2\n")
    start_llama(port=llama.port)
    assert ask(proxy, **talk(1, 2))["restored_tokens"] > 500


def test_a_restart_that_nobody_tells_of_costs_one_prompt(
    start_llama: Any, start_proxy: StartProxy, files: Path
) -> None:
    """Without a unit, and between two looks of the monitor."""
    llama = start_llama()
    proxy = start_proxy(llama.url, **settings(files))
    ask(proxy, **talk(1))
    ask(proxy, **talk(2))
    await_saved(files, 2)
    llama.kill()
    start_llama(port=llama.port)
    ask(proxy, **talk(1, 2))
    assert ask(proxy, **talk(2, 2))["restored_tokens"] > 500


@pytest.mark.ci
def test_a_slot_that_is_named_while_it_is_at_work_is_left_alone(
    llama_servers: StartLlamas,
) -> None:
    """What the role's patch is for: the request waits, and nobody gets another one's conversation.

    That is in the host's memory by then, from where it would be loaded into the slot. The model
    that counts would count on: it looks at nothing but the last number.
    """
    (llama,) = llama_servers(1, model=SMOLLM2.file(), n_ctx=1024)
    url = f"{llama.url}/completion"
    weather = "It will be sunny in the north and rainy in the south tomorrow, and in the evening"
    tale = SETTING * 3 + "Then the keeper of the light"
    bread = "Take flour, water, salt and yeast, and knead the dough until it is smooth."

    def body(prompt: str, tokens: int) -> dict[str, Any]:
        return {"prompt": prompt, "id_slot": 0, "n_predict": tokens, "temperature": 0}

    def text(prompt: str, tokens: int) -> str:
        return str(requests.post(url, json=body(prompt, tokens), timeout=60).json()["content"])

    def is_waiting() -> bool:
        told = requests.get(f"{llama.url}/metrics", timeout=60).text
        return "\nllamacpp:requests_deferred 1\n" in told

    alone = text(weather, 100)
    other = text(tale, 4)
    text(bread, 1)
    asked = {**body(weather, 100), "stream": True}
    with requests.post(url, json=asked, stream=True, timeout=60) as answer:
        lines = (line[6:] for line in answer.iter_lines() if line.startswith(b"data: {"))
        said = json.loads(next(lines))["content"]
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(text, tale, 4)
            wait_until(is_waiting, "the other one waits for the slot")
            said += "".join(json.loads(line)["content"] for line in lines)
            assert (said, waiting.result()) == (alone, other)
