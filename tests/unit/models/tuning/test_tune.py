"""scripts/tune.py: what is measured on a card, and what is best of it."""

import json
from typing import Any

import pytest
from heartcode_models.cli.tune import main

FILE = "model-Q4_K_M.gguf"
P106 = "GPU-aa, NVIDIA P106-100, 6144, 69, 1, 1, 00000000:01:00.0, 6.1"
DEFAULTS = {
    "n_ctx": 4096,
    "slots": 1,
    "n_gpu_layers": 33,
    "n_batch": 512,
    "n_ubatch": 512,
    "kv_type": "q8_0",
    "flash_attention": True,
}
GRID = {
    "n_batch": [512, 1024],
    "n_ubatch": [256, 1024],
    "kv_type": ["q8_0", "f16"],
    "flash_attention": [True, False],
}


def host(**changes: Any) -> dict[str, Any]:
    return {
        "name": "rig1",
        "nvidia_smi": [P106],
        "bus": [],
        "ram_mib": 4000,
        "cores": 2,
        "model": "8B Q4_K_M",
        "model_file": FILE,
        "backend": "cuda",
        "gpus": [{"uuid": "GPU-aa", "model_file": FILE}],
        "values": DEFAULTS,
        "explicit": {},
        "said": {},
        "tuned": {},
        "grid": GRID,
        "turn": {"prompt_tokens": 1000, "answer_tokens": 200},
        "depth": 2048,
    } | changes


@pytest.fixture
def tune(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(command: str, description: dict[str, Any], *, fails: bool = False) -> Any:
        monkeypatch.setattr("json.load", lambda _: description)
        assert main([command]) == int(fails)
        told = capsys.readouterr()
        return told.err if fails else json.loads(told.out)

    return run


def names(candidates: list[dict[str, Any]]) -> list[str]:
    return [
        f"{c['n_batch']}/{c['n_ubatch']} {c['kv_type']} {'on' if c['flash_attention'] else 'off'}"
        for c in candidates
    ]


def result(speeds: tuple[float, float], **changes: Any) -> dict[str, Any]:
    candidate = {name: DEFAULTS[name] for name in GRID}
    return candidate | {"prompt": speeds[0], "decode": speeds[1]} | changes


def test_everything_that_works_is_measured_what_runs_now_first(tune: Any) -> None:
    less = P106.replace("6144", "5800")
    (card,) = tune("grid", host(nvidia_smi=[less]))
    assert names(card["candidates"]) == [
        "512/512 q8_0 on",
        "512/256 q8_0 on",
        "512/256 f16 on",
        "512/256 f16 off",
        "1024/256 q8_0 on",
        "1024/256 f16 on",
        "1024/256 f16 off",
        "1024/1024 q8_0 on",
        "1024/1024 f16 on",
    ]
    assert card["left_out"] == ["1024/1024 f16 fa off: lacks 24 MiB"]
    assert (card["prompt_tokens"], card["answer_tokens"], card["depth"]) == (1000, 200, 2048)


def test_what_does_not_fit_the_card_is_not_measured(tune: Any) -> None:
    (card,) = tune("grid", host(values=DEFAULTS | {"slots": 2, "n_ctx": 8192}))
    assert names(card["candidates"]) == [
        "512/512 q8_0 on",
        "512/256 q8_0 on",
        "1024/256 q8_0 on",
        "1024/1024 q8_0 on",
    ]
    assert [why.split(":")[0] for why in card["left_out"]] == [
        "512/256 f16 fa on",
        "512/256 f16 fa off",
        "1024/256 f16 fa on",
        "1024/256 f16 fa off",
        "1024/1024 f16 fa on",
        "1024/1024 f16 fa off",
    ]
    (roomy,) = tune("grid", host(nvidia_smi=[P106.replace("6144", "24576")]))
    assert roomy["left_out"] == []


def test_what_the_inventory_sets_is_not_tuned(tune: Any) -> None:
    (card,) = tune("grid", host(explicit={"kv_type": "q8_0"}, said={"GPU-aa": {"n_ubatch": 128}}))
    assert names(card["candidates"]) == ["512/128 q8_0 on", "1024/128 q8_0 on"]


def test_all_layers_are_as_many_as_the_model_has(tune: Any) -> None:
    by_number, by_name = (
        tune("grid", host(values=DEFAULTS | {"n_gpu_layers": layers})) for layers in (33, "all")
    )
    assert by_name == by_number
    measured = {"GPU-aa": {"measured": [result((250, 25))], "failed": []}}
    told = tune("choose", host(values=DEFAULTS | {"n_gpu_layers": "all"}, results=measured))
    assert told["cards"]["GPU-aa"]["measured_with"]["n_gpu_layers"] == "all"
    # None of them leaves room for everything.
    (card,) = tune("grid", host(values=DEFAULTS | {"n_gpu_layers": 0, "n_ctx": 16384}))
    assert card["left_out"] == []


def test_the_turn_is_cut_to_the_context(tune: Any) -> None:
    (card,) = tune("grid", host(values=DEFAULTS | {"n_ctx": 1024}))
    assert (card["prompt_tokens"], card["answer_tokens"], card["depth"]) == (824, 200, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": DEFAULTS | {"n_ctx": 65536}}, "no settings to measure fit 1 x 65536 tokens"),
        ({"model": "stheno"}, "does not tell the quantisation. Set tuning_model"),
        ({"model": "other.gguf"}, "is no file, no URL and no known model"),
        ({"grid": GRID | {"n_batch": [0]}}, "n_batch must be a whole number from 1, not 0"),
        ({"grid": GRID | {"kv_type": ["q5"]}}, "kv_type must be one of f16"),
        ({"grid": GRID | {"flash_attention": ["on"]}}, "flash_attention must be true or false"),
        ({"grid": GRID | {"n_ubatch": []}}, "tuning_grid.n_ubatch must be a list of values to try"),
        (
            {"explicit": {"flash_attention": False, "kv_type": "q8_0"}},
            "without flash attention kv_type has to be f16",
        ),
        ({"nvidia_smi": []}, "neither nvidia-smi nor the PCI bus shows a card"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    tune: Any, changes: dict[str, Any], message: str
) -> None:
    assert message in tune("grid", host(**changes), fails=True)


def test_a_card_that_is_gone_is_left_out(tune: Any) -> None:
    gpus = [{"uuid": uuid, "model_file": FILE} for uuid in ("GPU-bb", "GPU-aa")]
    gone, there = tune("grid", host(gpus=gpus))
    assert (gone["candidates"], gone["left_out"]) == ([], ["the card is not there"])
    (alone,) = tune("grid", host())
    assert there["candidates"] == alone["candidates"] != []


def test_a_card_with_a_file_of_its_own_has_its_own_room(tune: Any) -> None:
    own = {"uuid": "GPU-aa", "model_file": "Llama-3.1-8B-Q5_K_M.gguf"}
    (planned,) = tune("grid", host(gpus=[own]))
    (of_the_host,) = tune("grid", host())
    assert len(planned["candidates"]) < len(of_the_host["candidates"])
    measured = {"GPU-aa": {"measured": [result((250, 25), n_ubatch=256)], "failed": []}}
    told = tune("choose", host(gpus=[own], results=measured))
    assert told["cards"]["GPU-aa"]["measured_with"]["model_file"] == "Llama-3.1-8B-Q5_K_M.gguf"


def test_the_shortest_turn_wins(tune: Any) -> None:
    measured = [
        result((250, 25)),  # 4 + 8 s
        result((500, 22), n_ubatch=256),  # 2 + 9.1 s
        result((1000, 10), n_batch=1024),  # 1 + 20 s: fast prompts alone are not enough
    ]
    told = tune("choose", host(results={"GPU-aa": {"measured": measured, "failed": ["x: OOM"]}}))
    assert told["cards"]["GPU-aa"] == {
        "measured_with": {
            "model_file": "model-Q4_K_M.gguf",
            "n_ctx": 4096,
            "slots": 1,
            "n_gpu_layers": 33,
        },
        "settings": {"n_batch": 512, "n_ubatch": 256, "kv_type": "q8_0", "flash_attention": True},
        "speeds": {"prompt": 500.0, "decode": 22.0},
    }
    before, after = told["table"].splitlines()[1:3]
    assert before.split() == [
        "rig1",
        "P106-100",
        "before",
        "512/512",
        "q8_0",
        "on",
        "250.0",
        "25.0",
        "12.00",
    ]
    assert after.split() == ["after", "512/256", "q8_0", "on", "500.0", "22.0", "11.09"]
    assert "rig1 GPU-aa: failed: x: OOM" in told["table"]
    assert told["nothing_measured"] == []


def test_what_runs_stays_unless_another_is_really_better(tune: Any) -> None:
    found = {"measured": [result((300, 25), n_ubatch=256), result((295, 25))]}
    told = tune("choose", host(results={"GPU-aa": found}))
    assert told["cards"]["GPU-aa"]["settings"]["n_ubatch"] == 512
    assert "as it is" in told["table"]
    tuned = {"GPU-aa": {"n_ubatch": 256}}
    told = tune("choose", host(results={"GPU-aa": found}, tuned=tuned))
    assert told["cards"]["GPU-aa"]["settings"]["n_ubatch"] == 256


def test_among_equals_the_smaller_batch_and_less_vram(tune: Any) -> None:
    measured = [
        result((300, 25), n_batch=1024),
        result((299, 25), n_batch=512, n_ubatch=256, kv_type="f16"),
        result((298, 25), n_batch=512, n_ubatch=256),
    ]
    told = tune("choose", host(results={"GPU-aa": {"measured": measured}}))
    assert told["cards"]["GPU-aa"]["settings"] == {
        "n_batch": 512,
        "n_ubatch": 256,
        "kv_type": "q8_0",
        "flash_attention": True,
    }


def test_a_card_without_results_changes_nothing(tune: Any) -> None:
    told = tune("choose", host(results={"GPU-aa": {"measured": [], "failed": ["it hangs"]}}))
    assert (told["cards"], told["nothing_measured"]) == ({}, ["GPU-aa"])
    assert "failed: it hangs" in told["table"]


@pytest.mark.parametrize("speeds", [(0, 25), (300, float("nan")), ("fast", 1)])
def test_nonsense_is_no_measurement(tune: Any, speeds: Any) -> None:
    found = {"GPU-aa": {"measured": [result(speeds)]}}
    assert "is no measurement" in tune("choose", host(results=found), fails=True)


SIX = [f"GPU-{n}{n}, NVIDIA P106-100, 6144, 145, 1, 1, 00000000:0{n}:00.0, 6.1" for n in range(6)]
GROUP = {"uuid": "GPU-00+GPU-11+GPU-22", "model_file": FILE, "tensor_split": [14, 14, 13]}


def grouped(**changes: Any) -> dict[str, Any]:
    large = {"n_gpu_layers": "all", "n_ctx": 10240, "slots": 3}
    given = {"model": "24B Q4_K_M", "nvidia_smi": SIX, "gpus": [GROUP], "values": DEFAULTS | large}
    return host(**(given | changes))


def test_a_group_is_measured_with_what_fits_each_of_its_cards(tune: Any) -> None:
    (group,) = tune("grid", grouped())
    assert group["uuid"] == GROUP["uuid"]
    assert "512/512 q8_0 on" in names(group["candidates"])
    assert any(why.startswith("512/256 f16 fa on: lacks") for why in group["left_out"])
    # What one card lacks the others cannot give.
    uneven = GROUP | {"tensor_split": [20, 11, 10]}
    told = tune("grid", grouped(gpus=[uneven]), fails=True)
    assert "no settings to measure fit 3 x 10240 tokens" in told


def test_a_group_of_which_a_card_is_gone_is_left_out(tune: Any) -> None:
    (group,) = tune("grid", grouped(nvidia_smi=SIX[1:]))
    assert (group["candidates"], group["left_out"]) == ([], ["a card of the group is not there"])


def test_what_is_best_for_a_group_is_kept_under_its_name(tune: Any) -> None:
    measured = {GROUP["uuid"]: {"measured": [result((250, 25))], "failed": []}}
    told = tune("choose", grouped(results=measured))
    assert set(told["cards"]) == {GROUP["uuid"]}
    assert "3 P106-100" in told["table"]


def test_no_card_s_memory_counts_for_a_group_where_the_cpu_computes(tune: Any) -> None:
    alone = {name: value for name, value in GROUP.items() if name != "tensor_split"}
    (group,) = tune("grid", grouped(backend="cpu", gpus=[alone]))
    assert group["left_out"] == []
