"""What the role llama_cpp has built with CUDA on a virtual rig, see tools/cuda_build_test.sh."""

import json
import os
import re
from pathlib import Path

import pytest

from tests.fleet.harness import Fleet

CURRENT = "/opt/heartcode/llama.cpp/current"
PROGRAMS = ("llama-server", "llama-bench", "ggml-rpc-server")
ARCHITECTURE = "sm_61"
# Registers and instructions that come with AVX. Each VEX instruction's name begins with a v, and no
# other's does but for verr, verw and those of virtualisation, which compilers do not emit.
AVX = r"%[yz]mm[0-9]|[[:space:]]v[a-z0-9]+[[:space:]]+[^#]*%[xyz]mm"


@pytest.fixture(scope="session")
def rig() -> Fleet:
    directory = Path(os.environ["HEARTCODE_FLEET_DIR"])
    machines = json.loads((directory / "fleet.json").read_text())["machines"]
    return Fleet(directory, {"rig1": machines["rig1"]["address"]})


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_holds_machine_code_for_pascal_alone(rig: Fleet, program: str) -> None:
    listed = rig.ssh("rig1", f"cuobjdump --list-elf {CURRENT}/bin/{program}")
    architectures = re.findall(r"\.(sm_[0-9a-z]+)\.cubin", listed)
    assert len(architectures) > 100, listed
    assert set(architectures) == {ARCHITECTURE}


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_holds_no_ptx(rig: Fleet, program: str) -> None:
    listed = rig.ssh("rig1", f"cuobjdump --list-ptx {CURRENT}/bin/{program} 2>&1", check=False)
    # It says so where there is none, and lists them as "PTX file    1: ..." where there are.
    assert "No PTX file found" in listed
    assert "PTX file  " not in listed


@pytest.mark.parametrize("program", PROGRAMS)
def test_its_cpu_code_runs_without_avx(rig: Fleet, program: str) -> None:
    disassembly = f"objdump --disassemble --no-show-raw-insn {CURRENT}/bin/{program}"
    instructions = int(rig.ssh("rig1", f"{disassembly} | wc -l"))
    assert instructions > 100_000
    assert rig.ssh("rig1", f"{disassembly} | grep -E -m 5 '{AVX}'", check=False) == ""


def test_avx_would_be_found(rig: Fleet) -> None:
    """The pattern finds it where it is: the C library has a version of memcpy for each CPU."""
    libc = "/lib/x86_64-linux-gnu/libc.so.6"
    found = rig.ssh("rig1", f"objdump -d --no-show-raw-insn {libc} | grep -E -c '{AVX}'")
    assert int(found) > 1000


def test_it_needs_no_more_than_the_driver_and_cuda_s_libraries(rig: Fleet) -> None:
    needed = re.findall(
        r"NEEDED\s+(\S+)", rig.ssh("rig1", f"objdump -p {CURRENT}/bin/llama-server")
    )
    of_cuda = {name for name in needed if "cu" in name}
    assert of_cuda == {"libcuda.so.1", "libcudart.so.12", "libcublas.so.12"}


def test_the_manifest_names_what_it_was_built_with(rig: Fleet) -> None:
    manifest = json.loads(rig.ssh("rig1", f"cat {CURRENT}/manifest.json"))
    assert manifest["backend"] == "cuda"
    assert manifest["cuda"] == "12.4"
    assert manifest["os"] == "Debian 13"
    assert "-DCMAKE_CUDA_ARCHITECTURES=61-real" in manifest["cmake_options"]
    assert [
        o for o in manifest["cmake_options"] if re.match("-DGGML_(AVX|FMA|F16C|BMI).*=ON", o)
    ] == []


def test_cuda_is_held_and_below_13(rig: Fleet) -> None:
    held = rig.ssh("rig1", "apt-mark showhold").split()
    assert {
        "nvidia-cuda-toolkit",
        "libcudart12",
        "libcublas12",
        "libcublaslt12",
        "libcuda1",
    } <= set(held)
    assert "release 12.4," in rig.ssh("rig1", "nvcc --version")
