"""The demo model counts: shown on its matrices and its file, without llama-server."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from heartcode_models.demo import counting as demo
from heartcode_models.units import MIB

SCRIPT = Path(__file__).parents[4] / "scripts" / "make_demo_model.py"


def logits(numbers: int, tokens: range) -> demo.Array:
    """What llama.cpp computes for these tokens: layers of zeros, a norm of ±1, the output rows."""
    embedding, output = demo.embeddings(numbers)
    hidden = embedding[tokens.start : tokens.stop].astype(np.float32)
    hidden /= np.sqrt(np.mean(hidden**2, axis=1, keepdims=True) + 1e-5)
    product: demo.Array = hidden @ output.T.astype(np.float32)
    return product


def margin(row: demo.Array, best: int) -> float:
    """How far the logit of `best` lies above all others."""
    others = np.delete(row, best)
    return float(row[best] - others.max())


def test_every_number_is_followed_by_the_next_with_a_wide_margin() -> None:
    numbers = demo.DEFAULT_NUMBERS
    for start in range(1, numbers, 512):
        tokens = range(demo.number_id(start), demo.number_id(min(start + 512, numbers)))
        block = logits(numbers, tokens)
        for token, row in zip(tokens, block, strict=True):
            # At a temperature of 2, a margin of 120 leaves each other token e^-60, or 1e-26.
            assert margin(row, token + 1) > 120


def test_the_last_number_is_followed_by_the_end() -> None:
    last = demo.number_id(demo.DEFAULT_NUMBERS)
    (row,) = logits(demo.DEFAULT_NUMBERS, range(last, last + 1))
    assert margin(row, demo.EOS_ID) > 120


def test_all_that_is_no_number_is_followed_by_1() -> None:
    for row in logits(demo.DEFAULT_NUMBERS, range(demo.FIRST_NUMBER_ID)):
        assert margin(row, demo.number_id(1)) > 120


def test_a_longer_model_begins_with_the_same_directions() -> None:
    assert np.array_equal(demo.random_signs(100), demo.random_signs(1000)[:100])


def test_every_prefix_of_a_number_is_a_token_and_no_bare_digit_is() -> None:
    tokens = set(demo.vocabulary(1234).tokens)
    for number in range(1, 1235):
        text = f"{demo.SPM_SPACE}{number}"
        assert {text[:length] for length in range(1, len(text) + 1)} <= tokens
    assert not tokens & set("0123456789")


def test_vocabulary_columns_have_one_entry_for_each_row_of_the_matrices() -> None:
    vocab = demo.vocabulary(20)
    embedding, output = demo.embeddings(20)
    assert vocab.tokens[demo.number_id(20)] == f"{demo.SPM_SPACE}20"
    assert len(vocab.tokens) == len(vocab.types) == len(vocab.scores) == len(set(vocab.tokens))
    assert len(vocab.tokens) == len(embedding) == len(output)


@pytest.mark.parametrize("mib", [1, 47, 48, 49, 512, 1000, 16384])
def test_the_layers_weigh_what_was_asked_for(mib: int) -> None:
    plan = demo.plan_layers(mib)
    weight = plan.layers * demo.layer_bytes(plan.ffn_length)
    assert weight == pytest.approx(mib * MIB, rel=0.001)
    assert demo.layer_bytes(plan.ffn_length) <= demo.MAX_LAYER_MIB * MIB * 1.001


def test_without_dead_weight_there_is_one_small_layer() -> None:
    assert demo.plan_layers(0) == demo.LayerPlan(layers=1, ffn_length=demo.SMALLEST_FFN)


def test_the_file_holds_what_was_computed(tmp_path: Path) -> None:
    path = tmp_path / "counting.gguf"
    demo.write_model(path, numbers=20, dead_weight_mib=50)

    reader = GGUFReader(path)
    stored = {tensor.name: tensor.data for tensor in reader.tensors}
    embedding, output = demo.embeddings(20)
    assert np.array_equal(stored["token_embd.weight"], embedding)
    assert np.array_equal(stored["output.weight"], output)
    assert stored["blk.1.ffn_down.weight"].shape[0] == demo.EMBEDDING_LENGTH
    assert not stored["blk.1.ffn_down.weight"].any()
    assert (stored["blk.1.ffn_norm.weight"] == 1).all()
    assert {name.split(".")[1] for name in stored if name.startswith("blk.")} == {"0", "1"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("general.architecture", "llama"),
        ("general.name", "counting"),
        ("general.license", "cc0-1.0"),
        ("llama.context_length", 32768),
        ("llama.block_count", 1),
        ("tokenizer.ggml.model", "llama"),
        ("tokenizer.ggml.eos_token_id", 2),
        ("tokenizer.ggml.add_space_prefix", False),
        ("tokenizer.chat_template", demo.CHAT_TEMPLATE),
    ],
)
def test_metadata(tmp_path: Path, key: str, value: object) -> None:
    path = tmp_path / "counting.gguf"
    demo.write_model(path, numbers=20)
    field = GGUFReader(path).get_field(key)
    assert field is not None
    assert field.contents() == value


def test_head_size_suits_a_q8_0_cache() -> None:
    assert demo.HEAD_DIM % 32 == 0
    assert demo.HEAD_DIM * demo.KV_HEADS % 32 == 0


def test_equal_arguments_give_equal_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "one.gguf", tmp_path / "two.gguf"
    demo.write_model(one, numbers=300, dead_weight_mib=1)
    demo.write_model(two, numbers=300, dead_weight_mib=1)
    assert one.read_bytes() == two.read_bytes()


def test_the_default_model_is_the_one_we_know(tmp_path: Path) -> None:
    """A new hash is fine when the model was meant to change; docs/demo-model.md names it."""
    path = tmp_path / "counting.gguf"
    demo.write_model(path)
    assert demo.sha256(path) == "a73bf66740c5b0a39a2ac989dccb6a2536f2c98525feb97a30d2219c7647dba7"
    manual = SCRIPT.parent.parent / "docs" / "demo-model.md"
    assert demo.sha256(path) in manual.read_text(encoding="utf-8")


def test_dead_weight_costs_no_disk(tmp_path: Path) -> None:
    path = tmp_path / "slow.gguf"
    demo.write_model(path, numbers=20, dead_weight_mib=256)
    facts = path.stat()
    assert facts.st_size > 256 * MIB
    assert facts.st_blocks * 512 < 4 * MIB


@pytest.mark.parametrize("numbers", [-1, 0, 1, demo.MAX_NUMBERS + 1])
def test_numbers_out_of_range(tmp_path: Path, numbers: int) -> None:
    with pytest.raises(ValueError, match=f"numbers must be 2 to 30000, not {numbers}"):
        demo.write_model(tmp_path / "counting.gguf", numbers=numbers)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mib", [-1, demo.MAX_DEAD_WEIGHT_MIB + 1])
def test_dead_weight_out_of_range(tmp_path: Path, mib: int) -> None:
    with pytest.raises(ValueError, match=f"dead weight must be 0 to 16384 MiB, not {mib}"):
        demo.write_model(tmp_path / "counting.gguf", dead_weight_mib=mib)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_model_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "counting.gguf"
    path.write_text("the old one")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo, "append_tensors", full_disk)
    with pytest.raises(OSError, match="No space left"):
        demo.write_model(path, numbers=20)
    assert path.read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [path]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False
    )


def test_command_line_prints_what_sha256sum_prints(tmp_path: Path) -> None:
    path = tmp_path / "counting.gguf"
    done = run(path, "--numbers", "20")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{demo.sha256(path)}  {path}\n"


def test_the_file_can_be_read_by_another_user(tmp_path: Path) -> None:
    path = tmp_path / "counting.gguf"
    before = os.umask(0o022)
    try:
        demo.write_model(path, numbers=20)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--numbers", "1"], "make_demo_model.py: error: numbers must be 2 to 30000, not 1\n"),
        (["--dead-weight-mib", "-5"], "error: dead weight must be 0 to 16384 MiB, not -5\n"),
    ],
)
def test_command_line_with_wrong_values(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run(tmp_path / "counting.gguf", *arguments)
    assert done.returncode == 2
    assert done.stderr.endswith(message)


def test_command_line_with_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    done = run(tmp_path / "missing" / "counting.gguf")
    assert done.returncode == 1
    assert done.stderr.startswith("make_demo_model.py: [Errno 2] No such file or directory")
    assert "Traceback" not in done.stderr
