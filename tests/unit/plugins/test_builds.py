"""How and where llama.cpp is built."""

from typing import Any

import pytest

from plugins.filter.builds import (
    build_jobs,
    build_peers,
    cmake_options,
    cpu_features,
    nvcc_version,
)

CELERON = ["fpu", "sse", "sse2", "ssse3", "sse4_1", "sse4_2", "popcnt", "aes", "rdrand"]
XEON = [*CELERON, "avx", "avx2", "fma", "f16c", "bmi1", "bmi2"]


def test_a_celeron_has_no_avx() -> None:
    assert cpu_features(CELERON) == ["SSE42"]
    assert cpu_features(XEON) == ["SSE42", "AVX", "AVX2", "BMI2", "FMA", "F16C"]


def test_every_option_is_given_in_the_order_that_names_the_version() -> None:
    named = {"LLAMA_BUILD_COMMIT": "0c1e57098"}
    options = cmake_options(["SSE42", "AVX"], named, "cuda", "61-real", ["-DX=1"])
    assert options == [
        "-DCMAKE_BUILD_TYPE=Release",
        "-DBUILD_SHARED_LIBS=OFF",
        "-DGGML_NATIVE=OFF",
        "-DLLAMA_BUILD_IS_DEV=OFF",
        "-DLLAMA_BUILD_UI=OFF",
        "-DLLAMA_USE_PREBUILT_UI=OFF",
        "-DLLAMA_BUILD_TESTS=OFF",
        "-DLLAMA_BUILD_EXAMPLES=OFF",
        "-DLLAMA_OPENSSL=OFF",
        "-DGGML_OPENMP=OFF",
        "-DGGML_RPC=ON",
        "-DGGML_RPC_RDMA=OFF",
        "-DLLAMA_BUILD_COMMIT=0c1e57098",
        "-DGGML_AVX=ON",
        "-DGGML_SSE42=ON",
        "-DGGML_AVX2=OFF",
        "-DGGML_BMI2=OFF",
        "-DGGML_F16C=OFF",
        "-DGGML_FMA=OFF",
        "-DGGML_CUDA=ON",
        "-DGGML_CUDA_NCCL=OFF",
        "-DCMAKE_CUDA_ARCHITECTURES=61-real",
        "-DX=1",
    ]
    assert cmake_options(["SSE42"], named, "cpu", "61-real", [])[-1] == "-DGGML_CUDA=OFF"


@pytest.mark.parametrize(
    ("backend", "asked", "cores", "free_mib", "jobs"),
    [
        ("cuda", 0, 2, 16000, 2),
        ("cuda", 0, 4, 4000, 2),
        ("cpu", 0, 4, 4000, 4),
        ("cuda", "0", "2", "300", 1),  # one at least
        ("cuda", 3, 2, 300, 3),  # who asks knows
    ],
)
def test_as_many_compilers_as_cores_and_memory_bear(
    backend: str, asked: Any, cores: Any, free_mib: Any, jobs: int
) -> None:
    assert build_jobs(backend, asked, cores, free_mib) == jobs


def test_nvcc_tells_its_version() -> None:
    said = (
        "Cuda compilation tools, release 12.4, V12.4.131\nBuild cuda_12.4.r12.4/compiler.34097967_0"
    )
    assert nvcc_version(said) == "12.4"
    assert nvcc_version("") == ""


def rig(version: str, *, installed: bool, can_build: bool) -> dict[str, Any]:
    return {
        "__llama_cpp_version": version,
        "__llama_cpp_installed": installed,
        "__llama_cpp_can_build": can_build,
    }


@pytest.mark.parametrize(
    ("rigs", "origin", "without"),
    [
        # A rig that has it, though it could not build it.
        ({"a": (False, True), "b": (True, False), "c": (True, True)}, "b", ["a"]),
        ({"a": (False, False), "b": (False, True), "c": (False, True)}, "b", ["a", "b", "c"]),
        # Somebody has to say that nobody can.
        ({"a": (False, False), "b": (False, False)}, "a", ["a", "b"]),
        ({"a": (True, True)}, "a", []),
    ],
)
def test_one_rig_gives_a_version_to_its_peers(
    rigs: dict[str, tuple[bool, bool]], origin: str, without: list[str]
) -> None:
    hostvars = {
        name: rig("1", installed=installed, can_build=can_build)
        for name, (installed, can_build) in rigs.items()
    }
    # Another kind of rig has nothing to give.
    hostvars = {"z": rig("2", installed=True, can_build=True)} | hostvars
    assert build_peers(hostvars, hostvars, "1") == {"origin": origin, "without": without}
