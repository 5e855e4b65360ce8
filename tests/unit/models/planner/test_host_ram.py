"""The planner's host RAM against what llama-servers were seen to take.

An H100 (driver 580.159, CUDA 12.4) with a llama-server 0c1e57098 whose kernels are those for 61,
all layers on the card unless a row says otherwise, 8B of zeros, --load-mode none --cache-ram 0.
"""

import json
from dataclasses import replace
from typing import NamedTuple

import pytest
from heartcode_models.planner.cards import HOPPER, PASCAL, Generation
from heartcode_models.planner.host_ram import (
    LIBRARIES,
    LlamaServer,
    host_buffers,
    host_weights,
    own_ram,
    private_ram,
    process_ram,
    ram_need,
    server_ram,
)
from heartcode_models.planner.known_models import known_model
from heartcode_models.planner.settings import Settings
from heartcode_models.units import MIB, mib

from plugins.filter import backends

MODEL = known_model("8B", "Q4_K_M")
#: MiB of a real Llama's merges, which the vocabulary of zeros does not have.
MERGES = 31


def settings(
    slots: int, n_ctx: int, kv_type: str = "q8_0", n_ubatch: int = 512, layers: int = 33
) -> Settings:
    return Settings(
        n_ctx=n_ctx,
        slots=slots,
        kv_type=kv_type,
        n_batch=512,
        n_ubatch=n_ubatch,
        n_gpu_layers=layers,
    )


class Seen(NamedTuple):
    """MiB of /proc/PID/smaps after several rounds of long prompts in every slot."""

    slots: int
    n_ctx: int
    #: [heap] and anonymous mappings, without CUDA graphs and with them.
    without_graphs: int
    with_graphs: int
    #: /dev/zero: what cudaHostAlloc gives.
    pinned: int
    #: /dev/nvidiactl, and all other files.
    control: int
    files: int


SEEN = [
    Seen(1, 8192, 290, 300, 318, 70, 108),
    Seen(3, 12288, 397, 410, 322, 70, 113),
]


class Peak(NamedTuple):
    """VmHWM in MiB, mapped files included, after every slot was filled once."""

    slots: int
    n_ctx: int
    kv_type: str
    n_ubatch: int
    layers: int
    taken: float

    @property
    def settings(self) -> Settings:
        return settings(self.slots, self.n_ctx, self.kv_type, self.n_ubatch, self.layers)


PEAKS = [
    Peak(2, 16384, "q8_0", 512, 33, 834.9),
    Peak(2, 8192, "f16", 128, 33, 813.2),
    Peak(1, 4096, "q8_0", 512, 16, 3055.2),
    Peak(1, 4096, "q8_0", 512, 0, 5441.8),
    Peak(1, 6144, "q8_0", 64, 33, 811.1),
    Peak(1, 6144, "f16", 64, 33, 796.4),
    Peak(1, 6144, "q8_0", 512, 33, 798.2),
    Peak(1, 6144, "f16", 512, 33, 785.9),
    Peak(3, 6144, "f16", 64, 33, 816.7),
    Peak(3, 6144, "q8_0", 512, 33, 895.4),
    Peak(3, 6144, "f16", 512, 33, 882.2),
    Peak(1, 12288, "q8_0", 64, 33, 813.0),
    Peak(1, 12288, "f16", 64, 33, 798.8),
    Peak(1, 12288, "q8_0", 512, 33, 804.9),
    Peak(1, 12288, "f16", 512, 33, 793.4),
    Peak(3, 12288, "q8_0", 64, 33, 835.4),
    Peak(3, 12288, "f16", 64, 33, 821.9),
    Peak(3, 12288, "q8_0", 512, 33, 905.3),
    Peak(3, 12288, "f16", 512, 33, 892.2),
    Peak(1, 32768, "q8_0", 64, 33, 820.1),
]
#: The same where kernels were used for the first time, and compiled: a build for the cards of a rig
#: has nothing to compile.
COMPILING = [
    Peak(2, 8192, "q8_0", 512, 33, 1008.5),
    Peak(2, 8192, "q4_0", 256, 33, 884.7),
    Peak(3, 6144, "q8_0", 64, 33, 905.5),
]


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("generation", [HOPPER, PASCAL], ids=["Hopper", "Pascal"])
def test_no_llama_server_takes_more_than_planned(seen: Seen, generation: Generation) -> None:
    # A Pascal card's part is the H100's without CUDA graphs.
    own = seen.with_graphs if generation is HOPPER else seen.without_graphs
    taken = own + seen.pinned + seen.control + MERGES
    server = LlamaServer(MODEL, settings(seen.slots, seen.n_ctx), generation)
    planned = private_ram(server, "none") / MIB
    assert taken <= planned <= 1.08 * taken
    assert seen.files <= LIBRARIES / MIB <= 1.1 * seen.files


@pytest.mark.parametrize("seen", SEEN)
def test_pinned_memory_is_the_buffers_of_llama_cpp_and_little_of_cuda_s(seen: Seen) -> None:
    wanted = settings(seen.slots, seen.n_ctx)
    planned = host_weights(MODEL, 33) + host_buffers(MODEL, wanted) + HOPPER.host.pinned
    assert 0 <= planned / MIB - seen.pinned <= 1.5


@pytest.mark.parametrize("peak", PEAKS)
def test_no_setting_takes_more_than_planned(peak: Peak) -> None:
    planned = server_ram(LlamaServer(MODEL, peak.settings, HOPPER), "none") / MIB
    assert peak.taken + MERGES <= planned <= 1.11 * (peak.taken + MERGES)


@pytest.mark.parametrize("peak", PEAKS + COMPILING)
def test_a_backend_s_limit_leaves_its_reserve(peak: Peak) -> None:
    """Of twelve on a host so small that a share of it is less; the role knows no generation."""
    values = {
        **vars(peak.settings),
        "model_file": "8b.gguf",
        "n_gpu_layers": peak.layers,
        "cache_ram_mib": 0,
        "memory_max_mib": 0,
        "load_mode": "none",
        "tuned": {},
    }
    cards = [{"uuid": f"GPU-{number}"} for number in range(12)]
    shapes = [{"item": "8b.gguf", "stdout": json.dumps(MODEL.as_data())}]
    made = backends.backend_ram(cards, values, shapes, [mib(MODEL.file_bytes)] * 12, 9000)
    assert made[0]["memory_max_mib"] >= peak.taken + MERGES + backends.RESERVE_MIB


def test_mapped_embeddings_are_shared_and_loaded_ones_are_not() -> None:
    servers = [LlamaServer(MODEL, settings(1, 4096))] * 6
    loaded, mapped = ram_need(servers, "none"), ram_need(servers, "mmap")
    assert loaded.total - mapped.total == 5 * MODEL.embedding_bytes
    assert mapped.shared_weights == MODEL.embedding_bytes


def test_layers_of_the_cpu_have_their_kv_there() -> None:
    whole, half = (LlamaServer(MODEL, settings(1, 4096, layers=n)) for n in (33, 16))
    assert process_ram(half) - process_ram(whole) == 17 * 272 * MIB // 32


@pytest.mark.parametrize(
    ("slots", "taken"),
    [
        (1, 61),  # the vocabulary has 280147 merges, as a real Llama's
        (3, 40 + MERGES),  # it has none
    ],
)
def test_what_llama_server_takes_without_cuda(slots: int, taken: int) -> None:
    """Heap and anonymous memory of it on the CPU, less the buffers that it reports."""
    planned = own_ram(MODEL, settings(slots, 8192)) / MIB
    assert taken <= planned <= 1.1 * taken
    larger = replace(MODEL, n_vocab=2 * MODEL.n_vocab)
    assert own_ram(larger, settings(slots, 8192)) / MIB > planned + 46


def test_several_cards_have_their_inputs_four_times() -> None:
    wanted = settings(2, 8192)
    alone, together = host_buffers(MODEL, wanted), host_buffers(MODEL, wanted, 3)
    inputs = 512 * (4 * 4096 + 24 + 2 * 8192)
    assert together - alone == 3 * inputs
    # Batches do not overlap where experts are kept from the cards.
    kept = replace(wanted, n_cpu_moe=1)
    assert host_buffers(MODEL, kept, 3) == alone


def test_embeddings_of_each_layer_are_looked_up_in_host_ram() -> None:
    wide = replace(MODEL, n_embd_per_layer=256)
    more = host_buffers(wide, settings(1, 4096)) - host_buffers(MODEL, settings(1, 4096))
    assert more == 512 * 2 * 4 * 256 * 32


def test_experts_that_stay_with_the_cpu_are_in_host_ram() -> None:
    model = known_model("30B-A3B", "Q4_K_M")
    layers = model.all_layers
    assert host_weights(model, layers, 48) - host_weights(model, layers) == sum(model.expert_bytes)
    assert host_weights(model, layers, 1) - host_weights(model, layers) == model.expert_bytes[0]
    # A layer that is there as a whole is there once.
    assert host_weights(model, 0, 48) == host_weights(model, 0)
