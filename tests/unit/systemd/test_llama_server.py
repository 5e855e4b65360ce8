"""heartcode-llama-server, with a program in llama-server's place that shows its command line."""

import os
import subprocess
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[3] / "systemd/libexec/heartcode-llama-server"


def start(tmp_path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    server = tmp_path / "llama-server"
    server.write_text('#!/bin/sh\necho "$@"\n')
    server.chmod(0o755)
    model = tmp_path / "model.gguf"
    model.touch()
    environment = {
        "PATH": os.environ["PATH"],
        "HEARTCODE_LLAMA_SERVER": str(server),
        "MODEL_PATH": str(model),
    }
    return subprocess.run(
        [PROGRAM], env=environment | variables, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("layers", ["all", "0", "33", "41"])
def test_layers_are_a_number_or_all(tmp_path: Path, layers: str) -> None:
    done = start(tmp_path, N_GPU_LAYERS=layers)
    assert done.returncode == 0, done.stderr
    assert f" -ngl {layers} -fit off " in done.stdout


@pytest.mark.parametrize("layers", ["auto", "-1", "many", "33.5"])
def test_other_layers_are_named_and_end_with_78(tmp_path: Path, layers: str) -> None:
    done = start(tmp_path, N_GPU_LAYERS=layers)
    assert (done.returncode, done.stdout) == (78, "")
    said = f"N_GPU_LAYERS, if it is not all, must be a whole number, but is '{layers}'"
    assert said in done.stderr


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"PORT": "70000"}, "PORT must be 1 to 65535, but is 70000"),
        ({"PORT": ""}, ""),
        ({"N_THREADS": "1025"}, "N_THREADS must be 1 to 1024, but is 1025"),
        ({"N_CTX": "255"}, "N_CTX must be 256 to 999999999, but is 255"),
        ({"N_CTX": "9" * 20}, f"N_CTX must be 256 to 999999999, but is {'9' * 20}"),
        ({"HEARTCODE_SLOTS": "two"}, "HEARTCODE_SLOTS must be a whole number, but is 'two'"),
    ],
)
def test_numbers_that_cannot_work_are_named_in_a_line(
    tmp_path: Path, variables: dict[str, str], says: str
) -> None:
    done = start(tmp_path, **variables)
    assert done.stderr == (f"heartcode-llama-server: {says}\n" if says else "")
    assert done.returncode == (78 if says else 0)


def test_a_card_is_named_as_the_device(tmp_path: Path) -> None:
    done = start(tmp_path, CUDA_VISIBLE_DEVICES="GPU-1", HEARTCODE_TENSOR_SPLIT="")
    assert " --device CUDA0 -ngl " in done.stdout
    assert "--tensor-split" not in done.stdout


def test_a_group_s_layers_are_shared_out_as_planned(tmp_path: Path) -> None:
    visible = {"CUDA_VISIBLE_DEVICES": "GPU-3,GPU-1,GPU-2", "HEARTCODE_TENSOR_SPLIT": "14,14,13"}
    done = start(tmp_path, **visible)
    assert done.returncode == 0, done.stderr
    devices = "--device CUDA0,CUDA1,CUDA2 --split-mode layer --tensor-split 14,14,13"
    assert f" {devices} -ngl " in done.stdout


@pytest.mark.parametrize(
    ("split", "says"),
    [
        ("", "must be whole numbers with commas between them, but is ''"),
        ("14,,13", "must be whole numbers"),
        ("14,half,13", "must be whole numbers"),
        ("14,14,13 --host 0.0.0.0", "must be whole numbers"),
        ("14,27", "(14,27) needs a number for each of CUDA0,CUDA1,CUDA2"),
        ("1,2,3,4", "needs a number for each"),
    ],
)
def test_layers_that_are_not_shared_out_among_the_cards_end_with_78(
    tmp_path: Path, split: str, says: str
) -> None:
    visible = {"CUDA_VISIBLE_DEVICES": "GPU-3,GPU-1,GPU-2", "HEARTCODE_TENSOR_SPLIT": split}
    done = start(tmp_path, **visible)
    assert (done.returncode, done.stdout) == (78, "")
    assert says in done.stderr


def test_what_helpers_lend_comes_before_the_own_cards(tmp_path: Path) -> None:
    done = start(
        tmp_path,
        HEARTCODE_RPC="rig2=192.168.1.22:50052/2 rig3=192.168.1.23:50053/1",
        CUDA_VISIBLE_DEVICES="GPU-3,GPU-1",
        HEARTCODE_TENSOR_SPLIT="14,14,13,9,8",
    )
    assert done.returncode == 0, done.stderr
    devices = "--device RPC0,RPC1,RPC2,CUDA0,CUDA1 --split-mode layer --tensor-split 14,14,13,9,8"
    assert f" --rpc 192.168.1.22:50052,192.168.1.23:50053 {devices} -ngl " in done.stdout


def test_a_helper_alone_needs_no_split(tmp_path: Path) -> None:
    done = start(tmp_path, HEARTCODE_RPC="rig2=192.168.1.22:50052/1")
    assert " --rpc 192.168.1.22:50052 --device RPC0 -ngl " in done.stdout
    assert "--tensor-split" not in done.stdout


def test_each_lent_card_has_its_layers(tmp_path: Path) -> None:
    done = start(
        tmp_path, HEARTCODE_RPC="rig2=192.168.1.22:50052/12", HEARTCODE_TENSOR_SPLIT="14,27"
    )
    assert (done.returncode, done.stdout) == (78, "")
    assert "needs a number for each of RPC0,RPC1," in done.stderr
    assert "RPC10,RPC11" in done.stderr


@pytest.mark.parametrize(
    "helpers", ["rig2", "rig2=192.168.1.22:50052", "rig2=192.168.1.22/2", "=a:1/2", "a=b:1/0"]
)
def test_a_helper_that_is_not_told_well_ends_with_78(tmp_path: Path, helpers: str) -> None:
    done = start(tmp_path, HEARTCODE_RPC=helpers)
    assert (done.returncode, done.stdout) == (78, "")
    assert "HEARTCODE_RPC must be HOST=ADDRESS:PORT/CARDS" in done.stderr


def test_conversations_are_saved_where_the_proxy_wants_them(tmp_path: Path) -> None:
    assert "--slot-save-path" not in start(tmp_path).stdout
    files = tmp_path / "conversations"
    files.mkdir()
    done = start(tmp_path, HEARTCODE_WARM_DIR=str(files))
    assert f" --slot-save-path {files} " in done.stdout


def test_without_a_directory_none_are_saved_and_all_else_works(tmp_path: Path) -> None:
    done = start(tmp_path, HEARTCODE_WARM_DIR=str(tmp_path / "nowhere"))
    assert done.returncode == 0
    assert "--slot-save-path" not in done.stdout
    assert "it saves no conversations" in done.stderr


@pytest.mark.parametrize("path", ["relative", "/with a space"])
def test_a_directory_that_cannot_be_named_ends_with_78(tmp_path: Path, path: str) -> None:
    done = start(tmp_path, HEARTCODE_WARM_DIR=path)
    assert (done.returncode, done.stdout) == (78, "")
    assert "HEARTCODE_WARM_DIR must be an absolute path" in done.stderr
