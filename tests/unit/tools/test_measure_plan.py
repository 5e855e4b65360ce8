"""What tools/measure_plan.py reads of a process."""

import re
from pathlib import Path

import pytest
from heartcode_models.gguf.header import read_header
from heartcode_models.gguf.read_model import model_of
from heartcode_models.planner.known_models import SHAPES, known_model

from tools.planning.measure import FILES, RAM, Comparison, reported, resident
from tools.planning.synthetic import write_synthetic

STATUS = """\
Name:\tllama-server
VmHWM:\t  815104 kB
VmRSS:\t  796672 kB
RssAnon:\t  307200 kB
RssFile:\t  163840 kB
RssShmem:\t  325632 kB
"""
SMAPS = """\
555500000000-555501200000 r-xp 00000000 fe:00 1234                       /opt/bin/llama-server
Size:              18432 kB
Rss:               18432 kB
555503000000-55550c000000 rw-p 00000000 00:00 0                          [heap]
Rss:              153600 kB
7f0000000000-7f0010000000 rw-s 00000000 00:01 77                         /dev/zero (deleted)
Rss:              325632 kB
7f1000000000-7f1004000000 rw-s 00000000 00:06 500                        /dev/nvidiactl
Rss:               70656 kB
7f1004000000-7f1004001000 rw-s 00000000 00:06 501                        /dev/nvidia0
Rss:                1024 kB
7f2000000000-7f2009600000 rw-p 00000000 00:00 0
Rss:              153600 kB
"""
#: As llama-server writes it with two devices.
LOG = """\
load_tensors:   CPU_Mapped model buffer size =   360.00 MiB
load_tensors:        CUDA0 model buffer size =  4515.01 MiB
load_tensors:       CUDA10 model buffer size =  4344.00 MiB
llama_kv_cache:      CUDA0 KV buffer size =   476.00 MiB
llama_kv_cache:      CUDA0 KV buffer size =    34.50 MiB
llama_kv_cache:     CUDA10 KV buffer size =   408.00 MiB
sched_reserve:      CUDA0 compute buffer size =   292.25 MiB
sched_reserve:     CUDA10 compute buffer size =   290.00 MiB
sched_reserve:  CUDA_Host compute buffer size =    20.00 MiB
"""


def test_what_the_driver_maps_is_memory_and_no_library() -> None:
    control = 69 + 1
    assert resident(STATUS, SMAPS) == {RAM: 300 + 318 + control, FILES: 160 - control}


def test_every_resident_page_of_a_real_process_is_counted_once() -> None:
    status, smaps = (Path(f"/proc/self/{name}").read_text() for name in ("status", "smaps"))
    (rss,) = re.findall(r"VmRSS:\s+(\d+) kB", status)
    parts = resident(status, smaps)
    assert sum(parts.values()) == pytest.approx(int(rss) / 1024)
    assert min(parts.values()) > 1


def test_a_bound_may_be_over_and_never_under() -> None:
    assert Comparison(what="", predicted=150, real=100, bound=True).good
    assert not Comparison(what="", predicted=150, real=100).good
    assert not Comparison(what="", predicted=99, real=100, bound=True).good


def test_each_device_has_what_llama_server_says_of_it() -> None:
    assert reported(LOG, "CUDA0") == {"model": 4515.01, "KV": 476 + 34.5, "compute": 292.25}
    assert reported(LOG, "CUDA10") == {"model": 4344, "KV": 408, "compute": 290}
    assert reported(LOG, "CUDA1") == {}
    assert reported(LOG, None) == {"model": 360, "compute": 20}


@pytest.mark.parametrize("size", SHAPES)
def test_a_model_of_zeros_says_what_is_planned_with(size: str, tmp_path: Path) -> None:
    path = tmp_path / "zeros.gguf"
    write_synthetic(path, size, "Q4_K_M")
    read, planned = model_of(read_header(str(path))), known_model(size, "Q4_K_M")
    for name in vars(planned).keys() - {"name", "file_bytes"}:
        assert getattr(read, name) == getattr(planned, name), name
