"""Filters for a build of llama.cpp: with what options, how much at a time, and on which rig.

flags | cpu_features                       what of ggml's instruction sets a CPU has
features | cmake_options(named, backend, cuda_arch, extra)
                                           cmake's arguments
backend | build_jobs(asked, cores, free_mib)
                                           compiler processes at a time
text | nvcc_version                        CUDA's version as nvcc tells it
hosts | build_peers(hostvars, version)     who gives that version to whom
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

#: ggml's options by the flag in /proc/cpuinfo that says that a CPU has it.
CPU_FEATURES = {
    "sse4_2": "SSE42",
    "avx": "AVX",
    "avx2": "AVX2",
    "bmi2": "BMI2",
    "fma": "FMA",
    "f16c": "F16C",
}
#: Without the options for the UI the build wants npm or a download. ggml's own threads serve as
#: well as OpenMP's here and spare the rigs a library.
_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    # Alone it turns AVX, AVX2, FMA, F16C and BMI2 on, which a Celeron lacks: each is given below.
    "-DGGML_NATIVE=OFF",
    "-DLLAMA_BUILD_IS_DEV=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DGGML_OPENMP=OFF",
    # For models over several rigs (docs/adr/0034): nothing of it is at work where none is told of.
    # RDMA would be there or not as the building host has libibverbs.
    "-DGGML_RPC=ON",
    "-DGGML_RPC_RDMA=OFF",
)
#: MiB that a compiler process takes: nvcc's, and a C++ compiler's.
_MIB_PER_JOB = {"cuda": 1536, "cpu": 700}


def cpu_features(flags: Collection[str]) -> list[str]:
    """Return what a CPU with these flags of /proc/cpuinfo has, as ggml names it."""
    return [feature for flag, feature in CPU_FEATURES.items() if flag in flags]


def cmake_options(
    features: Collection[str],
    named: Mapping[str, Any],
    backend: str,
    cuda_arch: str,
    extra: Sequence[str],
) -> list[str]:
    """Return every option that cmake is given, in an order that is always the same.

    The version of a build is named after them, so another order is another version. `named` are
    variables with what the build calls itself. `extra` comes last and so wins.
    """
    cuda = (
        ["-DGGML_CUDA=ON", "-DGGML_CUDA_NCCL=OFF", f"-DCMAKE_CUDA_ARCHITECTURES={cuda_arch}"]
        if backend == "cuda"
        else ["-DGGML_CUDA=OFF"]
    )
    return [
        *_OPTIONS,
        *(f"-D{name}={value}" for name, value in named.items()),
        *(f"-DGGML_{feature}=ON" for feature in sorted(features)),
        *(f"-DGGML_{one}=OFF" for one in sorted(set(CPU_FEATURES.values()) - set(features))),
        *cuda,
        *extra,
    ]


def build_jobs(backend: str, asked: Any, cores: Any, free_mib: Any) -> int:
    """Return how many compiler processes there are at a time: as asked, else what the rig bears."""
    return int(asked) or max(1, min(int(cores), int(free_mib) // _MIB_PER_JOB[backend]))


def nvcc_version(text: str) -> str:
    """Return `12.4` of `nvcc --version`, "" where there is none."""
    found = re.search(r"release ([0-9.]+)", text)
    return found[1] if found else ""


def build_peers(
    hosts: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]], version: str
) -> dict[str, Any]:
    """Return who of the hosts is the `origin` of a version, and those that are `without` it.

    A host that has it, else the first that can build it, else the first that wants it: that one
    says why it cannot.
    """
    peers = [host for host in hosts if hostvars[host]["__llama_cpp_version"] == version]
    without = [host for host in peers if not hostvars[host]["__llama_cpp_installed"]]
    able = [host for host in without if hostvars[host]["__llama_cpp_can_build"]]
    having = [host for host in peers if host not in without]
    return {"origin": [*having, *able, *without][0], "without": without}


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "cpu_features": cpu_features,
            "cmake_options": cmake_options,
            "build_jobs": build_jobs,
            "nvcc_version": nvcc_version,
            "build_peers": build_peers,
        }
