"""heartcode-rpc-server and -ready, without ggml-rpc-server and the driver."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

LIBEXEC = Path(__file__).parents[3] / "systemd/libexec"
READY = LIBEXEC / "heartcode-rpc-ready"
CARD, OTHER = "GPU-1", "GPU-2"


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def start(
    tmp_path: Path, *, card: str = "exit 0", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Start it; `card` is what the program that asks after cards does."""
    server = program(tmp_path / "ggml-rpc-server", 'echo "$@"')
    shutil.copy(LIBEXEC / "heartcode-settings", tmp_path)
    starter = shutil.copy(LIBEXEC / "heartcode-rpc-server", tmp_path)
    program(tmp_path / "heartcode-card", card)
    environment = {"PATH": os.environ["PATH"], "HEARTCODE_RPC_SERVER": str(server)}
    return subprocess.run(
        [starter], env=environment | variables, capture_output=True, text=True, check=False
    )


def test_cards_are_devices_in_their_order(tmp_path: Path) -> None:
    done = start(
        tmp_path,
        HEARTCODE_GPU_UUID="GPU-1+GPU-2+GPU-3",
        CUDA_VISIBLE_DEVICES="GPU-1,GPU-2,GPU-3",
        HEARTCODE_RPC_HOST="192.168.1.22",
        HEARTCODE_RPC_PORT="50053",
        N_THREADS="2",
    )
    assert (done.returncode, done.stderr) == (0, "")
    address = "--host 192.168.1.22 --port 50053"
    assert done.stdout == f"{address} --device CUDA0,CUDA1,CUDA2 --threads 2\n"


@pytest.mark.parametrize(
    ("cards", "devices"), [("cpu", "CPU"), ("GPU-1", "CPU"), ("GPU-1+GPU-2", "CPU,CPU")]
)
def test_without_cuda_the_cpu_takes_the_place_of_each_card(
    tmp_path: Path, cards: str, devices: str
) -> None:
    done = start(tmp_path, HEARTCODE_GPU_UUID=cards)
    assert done.returncode == 0, done.stderr
    assert f" --device {devices} " in done.stdout


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"N_THREADS": "many"}, "N_THREADS must be a whole number, but is 'many'"),
        ({"N_THREADS": "0"}, "N_THREADS must be 1 to 1024, but is 0"),
        ({"HEARTCODE_RPC_PORT": "65536"}, "HEARTCODE_RPC_PORT must be 1 to 65535, but is 65536"),
        ({"HEARTCODE_RPC_PORT": "9" * 30}, "HEARTCODE_RPC_PORT must be 1 to 65535, but is 999"),
        ({"HEARTCODE_RPC_HOST": "rig2"}, "must be an IPv4 address, but is 'rig2'"),
        ({"HEARTCODE_RPC_HOST": "fd00::22"}, "must be an IPv4 address, but is 'fd00::22'"),
        ({"HEARTCODE_RPC_HOST": "192.168.1.256"}, "must be an IPv4 address"),
        ({"HEARTCODE_RPC_HOST": "192.168.1.022"}, "must be an IPv4 address"),
        ({"HEARTCODE_RPC_HOST": "0.0.0.0"}, "must be one address of this host"),  # noqa: S104
        ({"HEARTCODE_GPU_UUID": "+"}, "HEARTCODE_GPU_UUID names no card: '+'"),
        (
            {"HEARTCODE_GPU_UUID": "GPU-1+GPU-2", "CUDA_VISIBLE_DEVICES": "GPU-1"},
            "CUDA_VISIBLE_DEVICES (GPU-1) must be the cards of HEARTCODE_GPU_UUID (GPU-1+GPU-2)",
        ),
        ({"HEARTCODE_RPC_SERVER": "/nowhere"}, "no ggml-rpc-server at /nowhere: run the playbook"),
    ],
)
def test_what_cannot_work_is_named_and_ends_with_78(
    tmp_path: Path, variables: dict[str, str], says: str
) -> None:
    done = start(tmp_path, **variables)
    assert (done.returncode, done.stdout) == (78, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("status", [1, 2])
def test_a_card_that_is_gone_is_named_and_ends_with_69(tmp_path: Path, status: int) -> None:
    run = {"HEARTCODE_BACKEND": "0", "RUNTIME_DIRECTORY": str(tmp_path)}
    told = f'echo "{OTHER}: the GPU is lost"; exit {status}'
    cards = f"{CARD}+{OTHER}"
    done = start(tmp_path, card=told, HEARTCODE_GPU_UUID=cards, **run)
    assert (done.returncode, done.stdout) == (69, "")
    said = "heartcode-rpc-server: card GPU-2 cannot be lent: the GPU is lost\n"
    assert done.stderr == said
    # The exporter tells it, and heartcode-rpc@N.service has the power limits set again.
    assert (tmp_path / "0.quarantined").read_text() == "GPU-2: the GPU is lost\n"
    done = start(tmp_path, card='[ "$1" = GPU-1+GPU-2 ]', HEARTCODE_GPU_UUID=cards, **run)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "0.quarantined").exists()


def test_where_nobody_can_tell_of_a_card_it_is_tried(tmp_path: Path) -> None:
    done = start(tmp_path, card='echo "GPU-1: no answer"; exit 3', HEARTCODE_GPU_UUID=CARD)
    assert done.returncode == 0, done.stderr


def test_a_host_without_cards_is_asked_for_none(tmp_path: Path) -> None:
    assert start(tmp_path, card="exit 1", HEARTCODE_GPU_UUID="cpu").returncode == 0


def ready(*arguments: str | Path, port: int, main_pid: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [READY, *arguments],
        env={
            "PATH": os.environ["PATH"],
            "HEARTCODE_RPC_HOST": "127.0.0.1",
            "HEARTCODE_RPC_PORT": str(port),
            "MAINPID": str(main_pid),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_it_is_ready_when_the_kernel_says_that_it_listens_and_nobody_has_connected() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        done = ready(port=server.getsockname()[1], main_pid=os.getpid())
        assert (done.returncode, done.stderr) == (0, "")
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_program_that_has_ended_is_not_waited_for() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    done = ready(port=port, main_pid=ended.pid)
    assert done.returncode == 1
    assert "has ended before it listened" in done.stderr


def test_it_is_the_program_s_own_address_that_counts(tmp_path: Path) -> None:
    """Not another one's port, nor a connection."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    table = tmp_path / "tcp"
    others = (
        "   0: 00000000:C384 00000000:0000 0A 0\n"
        "   1: 0100007F:C384 0200007F:9999 01 0\n"
        "   2: 0100007F:C385 00000000:0000 0A 0\n"
    )
    table.write_text(others)
    assert ready(table, port=50052, main_pid=ended.pid).returncode == 1
    table.write_text(f"{others}   3: 0100007F:C384 00000000:0000 0A 0\n")
    assert ready(table, port=50052, main_pid=ended.pid).returncode == 0
