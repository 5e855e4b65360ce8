"""The formulas agree with numbers that are known from elsewhere."""

import pytest
from heartcode_models.planner.host_ram import host_weights, ram_need
from heartcode_models.planner.known_models import known_model
from heartcode_models.planner.settings import Settings
from heartcode_models.planner.vram import compute_buffer, kv_cache, vram_need, weights
from heartcode_models.units import MIB

MODEL = known_model("8B", "Q4_K_M")


def settings(
    n_ctx: int = 4096, slots: int = 1, n_ubatch: int = 512, kv_type: str = "q8_0", layers: int = 33
) -> Settings:
    return Settings(
        n_ctx=n_ctx,
        slots=slots,
        kv_type=kv_type,
        n_batch=512,
        n_ubatch=n_ubatch,
        n_gpu_layers=layers,
    )


@pytest.mark.parametrize(("kv_type", "kv_mib"), [("f16", 512), ("q8_0", 272), ("q4_0", 144)])
def test_the_kv_cache_of_4096_tokens(kv_type: str, kv_mib: int) -> None:
    assert kv_cache(MODEL, settings(kv_type=kv_type)) == kv_mib * MIB


def test_a_context_is_rounded_up_for_each_slot() -> None:
    assert kv_cache(MODEL, settings(n_ctx=4000, slots=3)) == 3 * 272 * MIB


# What llama-server 0c1e57098 reports with `-ngl 0` for a GGUF of tools.planning.synthetic.
MEASURED = [
    (4096, 1, 512, "q8_0", 112.09),
    (8192, 1, 512, "q8_0", 116.09),
    (16384, 1, 512, "q8_0", 124.09),
    (8192, 2, 512, "q8_0", 116.09),
    (8192, 4, 512, "q8_0", 116.09),
    (4096, 1, 256, "q8_0", 56.08),
    (4096, 1, 128, "q8_0", 28.08),
    (8192, 2, 128, "q8_0", 29.08),
    (4096, 1, 64, "q8_0", 14.08),
    (4096, 1, 512, "f16", 120.01),
]


@pytest.mark.parametrize(("n_ctx", "slots", "n_ubatch", "kv_type", "measured_mib"), MEASURED)
def test_the_compute_buffer_is_not_underestimated(
    n_ctx: int, slots: int, n_ubatch: int, kv_type: str, measured_mib: float
) -> None:
    wanted = settings(n_ctx=n_ctx, slots=slots, n_ubatch=n_ubatch, kv_type=kv_type)
    # Only CUDA makes an f16 copy of one layer's K and V: 4 KiB for each token.
    cuda_only = 0 if kv_type == "f16" else 4096 * n_ctx * slots
    common = (compute_buffer(MODEL, wanted) - cuda_only) / MIB
    # The buffer has room for four tensors as wide as the residual stream; three or four are used.
    reserve = n_ubatch * 4 * MODEL.n_embd / MIB
    assert measured_mib <= common <= measured_mib + reserve + 2.1


def test_the_whole_model_but_the_embeddings_is_on_the_card() -> None:
    on_card, on_host = weights(MODEL, 33), host_weights(MODEL, 33)
    assert on_host == MODEL.embedding_bytes
    assert on_card + on_host == pytest.approx(MODEL.file_bytes, rel=0.002)


@pytest.mark.parametrize("layers", range(35))
def test_every_weight_is_somewhere(layers: int) -> None:
    total = sum(MODEL.layer_bytes) + MODEL.embedding_bytes + MODEL.output_bytes
    assert weights(MODEL, layers) + host_weights(MODEL, layers) == total


def test_without_layers_there_are_neither_weights_nor_kv_on_the_card() -> None:
    need = vram_need(MODEL, settings(layers=0))
    assert (need.weights, need.kv) == (0, 0)


def test_one_layer_is_the_output() -> None:
    assert weights(MODEL, 1) == MODEL.output_bytes


def test_tied_embeddings_are_on_both_sides() -> None:
    model = known_model("3B", "Q4_K_M")
    assert model.output_bytes >= model.embedding_bytes == host_weights(model, model.all_layers)


def test_mapped_embeddings_are_shared_and_loaded_ones_are_not() -> None:
    servers = [(MODEL, settings())] * 6
    loaded, mapped = ram_need(servers, "none"), ram_need(servers, "mmap")
    assert loaded.total - mapped.total == 5 * MODEL.embedding_bytes
    assert mapped.shared_weights == MODEL.embedding_bytes


@pytest.mark.parametrize(
    ("n_ctx", "slots", "n_ubatch", "real_mib"),
    [(4096, 1, 512, 308.01), (8192, 1, 512, 572.01), (4096, 2, 512, 308.01), (4096, 2, 128, 77.0)],
)
def test_the_compute_buffer_without_flash_attention(
    n_ctx: int, slots: int, n_ubatch: int, real_mib: float
) -> None:
    """As llama-server reports it with the pinned source (CPU backend, an 8B-shaped model)."""
    needed = vram_need(
        MODEL, settings(n_ctx, slots, n_ubatch, kv_type="f16"), flash_attention=False
    )
    assert 1 <= needed.compute / MIB / real_mib <= 1.08


def test_less_memory_with_flash_attention() -> None:
    some = settings(kv_type="f16")
    assert vram_need(MODEL, some).total < vram_need(MODEL, some, flash_attention=False).total
