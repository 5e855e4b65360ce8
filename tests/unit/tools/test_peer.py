"""llama.cpp's own tests against llama-server and proxy: what is run, and what is a difference."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from gguf import GGUFReader

from tools.peer import differences
from tools.peer.arguments import understood
from tools.peer.differences import LEFT_OUT, Entry, Outcomes, Table, faults
from tools.peer.model import write_model

ROOT = Path(__file__).parents[3]


def table(passed_at_least: int = 0, /, **kinds: str) -> Table:
    """A table with one entry for each pattern: `table(open="a", left_out="b")`."""
    none: dict[str, tuple[Entry, ...]] = {"left_out": (), "by_design": (), "open": ()}
    entries = {name: (Entry(tests=tests, reason="x"),) for name, tests in kinds.items()}
    return Table(passed_at_least=passed_at_least, **(none | entries))


def test_a_model_of_a_hub_becomes_the_one_that_is_here() -> None:
    asked = ["--port", "8080", "--hf-repo", "somebody/model", "--hf-file", "x.gguf", "--offline"]
    found = understood([*asked, "--parallel", "2", "--temp", "0"], model="here.gguf")
    assert (found.port, found.slots, found.key) == (8080, 2, ())
    assert found.rest[:7] == ("--offline", "--parallel", "2", "--temp", "0", "--model", "here.gguf")
    assert "somebody/model" not in found.rest


def test_a_model_in_a_file_stays_and_so_does_having_none() -> None:
    own = understood(["--port", "1", "--model", "own.gguf"], model="here.gguf")
    assert own.rest[:2] == ("--model", "own.gguf")
    assert "here.gguf" not in own.rest
    assert "--model" not in understood(["--port", "1"], model="here.gguf").rest


def test_a_key_is_told_apart_from_what_a_rig_has() -> None:
    found = understood(["--port", "1", "--api-key", "secret"], model="here.gguf")
    assert found.key == ("--api-key", "secret")
    assert "secret" not in found.rest


def test_without_a_port_it_is_no_test() -> None:
    with pytest.raises(ValueError, match="--port"):
        understood(["--hf-repo", "somebody/model"], model="here.gguf")


def test_the_model_reads_prose_in_pairs_and_has_no_template(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    write_model(path)
    found = GGUFReader(path)
    tokens = found.fields["tokenizer.ggml.tokens"].contents()
    assert {"\u2581t", "he", "\u258112", "<|fim_middle|>"} < set(tokens)
    assert len(tokens) == len(set(tokens))
    for name in ("scores", "token_type"):
        assert len(found.fields[f"tokenizer.ggml.{name}"].contents()) == len(tokens)
    rows = {tensor.name: tensor.data.shape[0] for tensor in found.tensors}
    assert rows["token_embd.weight"] == rows["output.weight"] == len(tokens)
    assert "tokenizer.chat_template" not in found.fields


@pytest.mark.parametrize(
    ("direct", "proxied", "known", "expected"),
    [
        ({"a": "passed"}, {"a": "passed"}, table(), []),
        ({"a": "failed at 1"}, {"a": "failed at 1"}, table(), []),
        (
            {"a": "failed at 2"},
            {"a": "failed at 1"},
            table(),
            ["a: failed at 2 directly, failed at 1 through the proxy"],
        ),
        ({"a": "passed"}, {"a": "failed at 1"}, table(open="a"), []),
        ({"a": "passed"}, {"a": "failed at 1"}, table(by_design="a"), []),
        ({"a": "passed"}, {}, table(), ["a: run one way only"]),
        ({"a": LEFT_OUT}, {"a": LEFT_OUT}, table(left_out="*"), []),
    ],
)
def test_a_difference_needs_an_entry(
    direct: Outcomes, proxied: Outcomes, known: Table, expected: list[str]
) -> None:
    assert faults(direct, proxied, known) == expected


@pytest.mark.parametrize("kind", ["by_design", "open", "left_out"])
def test_an_entry_needs_a_difference(kind: str) -> None:
    same = {"a1": "passed"}
    (line,) = faults(same, same, table(**{kind: "a*"}))
    assert line.startswith("a1: as it should be, and 'a*'")
    (line,) = faults(same, same, table(**{kind: "b"}))
    assert line.startswith("b: there is no such test")


def test_every_test_of_a_pattern_has_to_differ() -> None:
    direct = {"a1": "passed", "a2": "passed"}
    (line,) = faults(direct, {"a1": "passed", "a2": "failed at 1"}, table(open="a*"))
    assert line.startswith("a1: as it should be")


def test_a_run_in_which_nothing_passes_says_nothing() -> None:
    same = {"a": "failed at 1"}
    (line,) = faults(same, same, table(1))
    assert line.startswith("0 tests pass both ways, and 1 should")


def test_brackets_of_a_parameter_are_no_pattern() -> None:
    assert Entry(tests="t.py::test[a-*]", reason="x").is_for("t.py::test[a-{1}\n]")
    assert not Entry(tests="t.py::test[ab]", reason="x").is_for("t.py::testa")


def test_for_some_tests_only_their_entries_count() -> None:
    some = table(9, open="a*", by_design="b").for_some(["a1"])
    assert (len(some.open), len(some.by_design), some.passed_at_least) == (1, 0, 0)


def test_the_table_says_why_and_keeps_what_is_open_apart() -> None:
    known = differences.read()
    assert known.passed_at_least > 100
    assert not [entry.tests for entry in known.open if not entry.reason.startswith("open: ")]
    assert not [entry.tests for entry in known.by_design if entry.reason.startswith("open")]


@pytest.mark.parametrize(
    "text", ["[[opne]]", "[[open]]\ntests = 'x'", "[[open]]\ntests = ''\nreason='x'"]
)
def test_a_table_that_nobody_could_read_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"x\.toml"):
        differences.read(path)


SUITE = {
    "utils.py": "import wget\nclass ServerPreset:\n  load_all = staticmethod(lambda: 1 / 0)\n",
    "conftest.py": (
        "import pytest\nfrom utils import *\n"
        "@pytest.fixture(scope='session', autouse=True)\n"
        "def presets():\n    ServerPreset.load_all()\n"
    ),
    "unit/test_basic.py": (
        "import pytest, wget\n"
        "@pytest.fixture\n"
        "def broken():\n    raise ValueError\n"
        "def helper():\n    assert False\n"
        "def test_passes(): pass\n"
        "def test_fails(): helper()\n"
        "def test_skips(): pytest.skip('x')\n"
        "def test_without_setup(broken): pass\n"
        "def test_downloads(): wget.download('http://127.0.0.1:1/x', out='y')\n"
    ),
    "unit/test_router.py": "def test_that_is_left_out(): assert False\n",
}


def test_outcomes_tell_where_a_test_failed(tmp_path: Path) -> None:
    for name, text in SUITE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    options = ["-p", "tools.peer.plugin", "-p", "no:cacheprovider", "--peer-outcomes", "out.json"]
    options += ["--peer-only=unit/test_b*", "--peer-only=*test_router.py*"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert json.loads((tmp_path / "out.json").read_text()) == {
        "unit/test_router.py::test_that_is_left_out": LEFT_OUT,
        "unit/test_basic.py::test_passes": "passed",
        "unit/test_basic.py::test_fails": "failed at unit/test_basic.py:6",
        "unit/test_basic.py::test_skips": "skipped",
        "unit/test_basic.py::test_without_setup": "failed at unit/test_basic.py:4",
        "unit/test_basic.py::test_downloads": "failed at unit/test_basic.py:11",
    }
