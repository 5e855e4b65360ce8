"""What the roles ask the same code: on the control node, and on a host as one packed file."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from heartcode_models.files.control import verified_files
from heartcode_models.files.host import fetch
from heartcode_models.files.pack import pack
from heartcode_models.files.part import PartFile
from heartcode_models.gguf.header import read_header
from heartcode_models.gguf.kv_cache import kv_bytes_per_token
from heartcode_models.gguf.model import Model
from heartcode_models.gguf.read_model import model_of

from tests.model_hub import COMMIT, ModelHub
from tests.unit.models.conftest import NAME, REPOSITORY

TOOL = Path(__file__).parents[4] / "scripts/model.py"


class Roles:
    """Questions as Ansible asks them."""

    def __init__(self, hub: ModelHub, catalogue: Path) -> None:
        self.hub = hub
        self.directory = catalogue.parent
        self.lock = self.directory / "lock.json"
        self.question = {
            "host": "rig1",
            "name": "",
            "quantisation": "",
            "file": "",
            "src": "",
            "catalogue": str(catalogue),
            "lock": str(self.lock),
            "endpoint": hub.url,
            "token": "",
        }

    def ask(
        self, command: str, question: Mapping[str, Any], program: Path = TOOL
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, program, command],
            input=json.dumps(question),
            env=os.environ | {"HEARTCODE_CACHE_DIR": str(self.directory / "cache")},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def describe(self, **question: str) -> dict[str, Any]:
        done = self.ask("describe", self.question | question)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def fetch(
        self, program: Path, described: Mapping[str, Any], *mirrors: str, token: str = ""
    ) -> subprocess.CompletedProcess[str]:
        return self.on_host("fetch", program, {**described, "mirrors": mirrors, "token": token})

    def on_host(
        self, command: str, program: Path, question: Mapping[str, Any]
    ) -> subprocess.CompletedProcess[str]:
        own = {"directory": str(self.directory / "rig"), "notes": str(self.directory / "notes")}
        return self.ask(command, {**question, **own}, program)


@pytest.fixture
def roles(hub: ModelHub, catalogue: Path) -> Roles:
    return Roles(hub, catalogue)


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(tmp_path_factory.mktemp("packed"))


def test_a_model_of_the_catalogue_is_what_the_hub_says(roles: Roles, model: bytes) -> None:
    described = roles.describe(name="counting", quantisation="q4_k_m")
    sha256 = hashlib.sha256(model).hexdigest()
    assert described["file"] == NAME
    assert (described["size"], described["sha256"]) == (len(model), sha256)
    assert described["url"] == f"{roles.hub.url}/{REPOSITORY}/resolve/{COMMIT}/{NAME}"
    assert described["label"] == "counting Q4_K_M"
    assert described["licence"].startswith("mit, see ")
    assert not roles.lock.exists(), "looking changes nothing"


def test_a_pin_is_recorded_once_and_asks_nobody_after_that(roles: Roles) -> None:
    described = roles.describe(name="counting", quantisation="Q4_K_M")
    question = {"lock": str(roles.lock), "pin": described["pin"]}
    assert roles.ask("pin", question).stdout == "true\n"
    assert roles.ask("pin", question).stdout == "false\n"
    before = len(roles.hub.asked)
    again = roles.describe(name="counting", quantisation="Q4_K_M", file=NAME)
    assert again == described | {"pin": None}
    assert len(roles.hub.asked) == before


def test_a_file_of_the_control_node_is_read_once(
    roles: Roles, model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = roles.directory / "own.gguf"
    src.write_bytes(model)
    described = roles.describe(file="own.gguf", src=str(src))
    assert described["sha256"] == hashlib.sha256(model).hexdigest()
    assert described["size"] == len(model)
    assert described["src"] == str(src)
    monkeypatch.setenv("HEARTCODE_CACHE_DIR", str(roles.directory / "cache"))
    monkeypatch.setattr("heartcode_models.files.place._read", lambda _: "read again")
    assert verified_files().sha256(src) == described["sha256"]


def test_a_file_that_lies_on_the_rigs_is_named_and_no_more(roles: Roles) -> None:
    described = roles.describe(file="own.gguf")
    assert (described["size"], described["sha256"], described["src"]) == (None, None, "")


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({}, "rig1: there is no model: set model_name (counting), or"),
        ({"name": "counting"}, "rig1: no quantisation for counting; there are Q4_K_M, Q6_K"),
        (
            {"name": "other", "quantisation": "Q4_K_M"},
            "no model 'other'; the catalogue has counting",
        ),
        (
            {"name": "counting", "quantisation": "Q4_K_M", "file": "own.gguf"},
            f"model_name counting is {NAME}, and model_file says own.gguf; set one of the two",
        ),
        (
            {"name": "counting", "quantisation": "Q4_K_M", "src": "/own.gguf"},
            "so model_src must be empty",
        ),
        ({"file": "../own.gguf"}, "give the name of a .gguf file without a path"),
        ({"file": "own.gguf", "src": "/nowhere"}, "there is no such file on the control node"),
        ({"file": "own.gguf", "src": str(TOOL)}, "is no usable GGUF: it begins with"),
        (
            {"name": "counting", "quantisation": "Q6_K"},
            f"rig1: {REPOSITORY}: http://127.0.0.1",
        ),
    ],
)
def test_what_cannot_be_is_said_with_the_host(
    roles: Roles, question: dict[str, str], message: str
) -> None:
    done = roles.ask("describe", roles.question | question)
    assert done.returncode == 3
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_truncated_file_of_the_control_node_is_found(roles: Roles, model: bytes) -> None:
    src = roles.directory / "own.gguf"
    src.write_bytes(model[: len(model) // 2])
    done = roles.ask("describe", roles.question | {"file": "own.gguf", "src": str(src)})
    assert done.returncode == 3
    assert "the download is incomplete" in done.stderr


def test_the_packed_program_has_the_same_name_for_the_same_code(
    packed: Path, tmp_path: Path
) -> None:
    other = pack(tmp_path)
    assert other.name == packed.name
    assert other.read_bytes() == packed.read_bytes()


def test_a_host_gets_what_brings_and_checks_files_and_no_planner(packed: Path) -> None:
    with zipfile.ZipFile(packed) as program:
        modules = [Path(name).parts for name in program.namelist() if name != "__main__.py"]
    assert {module[0] for module in modules} == {"heartcode_models"}
    assert {module[1] for module in modules if len(module) > 2} == {"catalogue", "files", "gguf"}


def test_many_hosts_tasks_pack_at_the_same_time(packed: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: pack(tmp_path), range(24)))
    (path,) = paths
    assert path.read_bytes() == packed.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def test_a_host_takes_a_model_from_its_mirror(roles: Roles, packed: Path, model: bytes) -> None:
    described = roles.describe(name="counting", quantisation="Q4_K_M")
    roles.hub.asked.clear()
    mirror = f"{roles.hub.cdn}/{REPOSITORY}"
    done = roles.fetch(packed, described, mirror)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["changed"], answer["from"]) == (True, f"{mirror}/{NAME}")
    assert (roles.directory / "rig" / NAME).read_bytes() == model
    assert roles.hub.to("hub") == []
    again = json.loads(roles.fetch(packed, described, mirror).stdout)
    assert (again["changed"], again["from"]) == (False, "")


def test_a_host_falls_back_to_the_hub_with_its_token(roles: Roles, packed: Path) -> None:
    described = roles.describe(name="counting", quantisation="Q4_K_M")
    roles.hub.does.token = "hf_secret"  # noqa: S105
    mirror = f"{roles.hub.cdn}/{REPOSITORY}"
    roles.hub.does.cdn_statuses = [404]
    done = roles.fetch(packed, described, mirror, token="hf_secret")  # noqa: S106
    answer = json.loads(done.stdout)
    assert answer["from"] == described["url"]
    assert any("answers 404" in line for line in answer["said"])
    assert "hf_secret" not in done.stdout + done.stderr


def test_a_host_looks_what_it_has(roles: Roles, packed: Path) -> None:
    described = roles.describe(name="counting", quantisation="Q4_K_M")
    assert roles.on_host("holds", packed, described).stdout == "false\n"
    roles.fetch(packed, described)
    assert roles.on_host("holds", packed, described).stdout == "true\n"


def test_a_download_that_an_interrupted_playbook_has_left_at_work_is_waited_for(
    roles: Roles, model: bytes, tmp_path: Path
) -> None:
    described = roles.describe(name="counting", quantisation="Q4_K_M")
    question = {
        **described,
        "directory": str(tmp_path / "rig"),
        "notes": str(tmp_path / "notes"),
        "mirrors": [],
        "token": "",
    }
    (tmp_path / "rig").mkdir()
    pauses: list[float] = []
    with ExitStack() as other:
        other.enter_context(PartFile(tmp_path / "rig" / NAME, described["sha256"]))

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 3:
                other.close()

        fetched = fetch(question, pause)
    assert fetched["changed"]
    assert len(pauses) == 3
    assert (tmp_path / "rig" / NAME).read_bytes() == model


@pytest.mark.parametrize(
    ("status", "message"),
    [(403, "the fleet's own addresses alone"), (404, "does not hold this file")],
)
def test_a_mirror_s_refusal_has_words_of_its_own(
    roles: Roles, packed: Path, status: int, message: str
) -> None:
    described = roles.describe(name="counting", quantisation="Q4_K_M")
    roles.hub.does.cdn_statuses = [status]
    done = roles.fetch(packed, described | {"url": ""}, f"{roles.hub.cdn}/{REPOSITORY}")
    assert done.returncode == 3
    assert f"answers {status}" in done.stderr
    assert message in done.stderr


@pytest.mark.parametrize("size", [0, 3, 1000, -1])
def test_a_bare_host_can_check_a_file(
    packed: Path, model: bytes, tmp_path: Path, size: int
) -> None:
    """Only Python is there: no package, no virtual environment."""
    path = tmp_path / "model.gguf"
    path.write_bytes(model[:size])
    for content, good in ((model[:size], False), (model, True)):
        path.write_bytes(content)
        done = subprocess.run(
            [sys.executable, "-I", "-S", packed, "check", path],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == (0 if good else 3)
        assert ("is no usable GGUF" in done.stderr) != good


def test_a_host_tells_what_a_model_is(packed: Path, tmp_path: Path, model: bytes) -> None:
    path = tmp_path / NAME
    path.write_bytes(model)
    done = shape(packed, path)
    assert done.returncode == 0, done.stderr
    told = Model.from_data(json.loads(done.stdout))
    assert told == model_of(read_header(str(path)))
    # The demo model has one layer and one head, K and V of 64 values each.
    assert (kv_bytes_per_token(told, "f16"), kv_bytes_per_token(told, "q8_0")) == (256, 136)


def test_what_is_no_model_is_told(packed: Path, tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(b"no model")
    broken = shape(packed, path)
    assert (broken.returncode, broken.stdout) == (3, "")
    assert "is no usable GGUF" in broken.stderr


def test_a_host_tells_how_long_the_tokens_of_a_model_are(
    packed: Path, tmp_path: Path, model: bytes
) -> None:
    path = tmp_path / NAME
    path.write_bytes(model)
    for good, text in ((True, "6\n"), (False, "")):  # the longest is a byte's: <0x0A>
        done = subprocess.run(
            [sys.executable, "-I", "-S", packed, "token-bytes", path],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stdout) == (0 if good else 3, text)
        path.write_bytes(b"no model")


def shape(packed: Path, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-S", packed, "shape", path],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
