"""Built-in models have the sizes of the files that people download."""

import pytest
from heartcode_models.errors import ModelError
from heartcode_models.planner.known_models import LAST_RESORTS, QUANTISATIONS, SHAPES, known_model
from heartcode_models.units import MIB


@pytest.mark.parametrize(
    ("quantisation", "file_mib"), [("Q4_K_M", 4692), ("Q5_K_M", 5465), ("Q6_K", 6294)]
)
def test_an_8b_has_the_size_of_the_published_files(quantisation: str, file_mib: int) -> None:
    assert known_model("8B", quantisation).file_bytes / MIB == pytest.approx(file_mib, rel=0.002)


@pytest.mark.parametrize(
    ("quantisation", "file_gb"), [("Q4_K_M", 2.02), ("Q5_K_M", 2.32), ("Q6_K", 2.64)]
)
def test_a_3b_has_the_size_of_the_published_files(quantisation: str, file_gb: float) -> None:
    assert known_model("3B", quantisation).file_bytes / 1e9 == pytest.approx(file_gb, rel=0.01)


@pytest.mark.parametrize(
    ("size", "quantisation", "file_bytes"),
    [
        # As download pages say it: 7.48, 8.73 and 10.1 GB.
        ("12B", "Q4_K_M", 7.48e9),
        ("12B", "Q5_K_M", 8.73e9),
        ("12B", "Q6_K", 10.06e9),
        ("24B", "Q4_K_M", 14_333_908_672),
        ("24B", "Q5_K_M", 16_763_983_552),
        ("70B", "Q4_K_M", 42_520_398_400),
        ("70B", "Q5_K_M", 49.95e9),
        ("70B", "Q6_K", 57.89e9),
        ("70B", "Q3_K_M", 34.27e9),
        ("30B-A3B", "Q4_K_M", 18_556_686_912),
        ("30B-A3B", "Q5_K_M", 21_725_581_888),
        ("30B-A3B", "Q6_K", 25_092_532_800),
    ],
)
def test_larger_models_have_the_size_of_the_published_files(
    size: str, quantisation: str, file_bytes: float
) -> None:
    exact = isinstance(file_bytes, int)
    predicted = known_model(size, quantisation).file_bytes
    assert predicted == pytest.approx(file_bytes, rel=0.0001 if exact else 0.001)


@pytest.mark.parametrize(
    ("quantisation", "file_gb"), [("Q3_K_M", 4.02), ("Q2_K", 3.18)], ids=["Q3_K_M", "Q2_K"]
)
def test_the_last_resorts_too(quantisation: str, file_gb: float) -> None:
    assert quantisation in LAST_RESORTS
    assert known_model("8B", quantisation).file_bytes / 1e9 == pytest.approx(file_gb, rel=0.01)


def test_the_embeddings_of_q4_k_m_take_282_mib() -> None:
    assert known_model("8B", "Q4_K_M").embedding_bytes / MIB == pytest.approx(282, abs=0.5)


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("quantisation", QUANTISATIONS + LAST_RESORTS)
def test_the_parts_are_the_file(size: str, quantisation: str) -> None:
    model = known_model(size, quantisation)
    parts = sum(model.layer_bytes) + model.embedding_bytes + model.output_bytes
    shared = model.embedding_bytes if SHAPES[size].tied else 0
    vocabulary = SHAPES[size].vocabulary_bytes
    assert model.file_bytes - vocabulary == pytest.approx(parts - shared, abs=1024)


@pytest.mark.parametrize(("size", "quantisation"), [("405B", "Q4_K_M"), ("8B", "Q9_K")])
def test_what_is_not_known_is_refused_with_what_is(size: str, quantisation: str) -> None:
    with pytest.raises(ModelError, match="there are"):
        known_model(size, quantisation)
