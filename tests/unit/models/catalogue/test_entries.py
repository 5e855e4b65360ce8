"""The catalogue that people extend: what is in it, and what is said of mistakes."""

from pathlib import Path

import pytest
from heartcode_models.catalogue.entries import Catalogue
from heartcode_models.errors import ModelError
from heartcode_models.planner.find_models import find_models
from heartcode_models.planner.known_models import SHAPES

GOOD = {
    "title": '"A model"',
    "repository": '"people/Model-GGUF"',
    "revision": '"main"',
    "file": '"Model-{quantisation}.gguf"',
    "quantisations": '["Q4_K_M", "Q6_K"]',
    "licence": '"mit"',
    "context": "8192",
}


def written(path: Path, fields: dict[str, str], name: str = "mine") -> Path:
    lines = [f"{key} = {value}" for key, value in fields.items() if value]
    path.write_text("\n".join([f"[{name}]", *lines]))
    return path


def test_the_shipped_one_has_the_first_readme_s_models() -> None:
    catalogue = Catalogue.read()
    for model in ("stheno", "lumimaid"):
        for quantisation in ("Q4_K_M", "Q5_K_M"):
            entry, _, file = catalogue.find(model, quantisation)
            assert quantisation in file.path
            assert entry.shape in SHAPES
    entry, _, file = catalogue.find("stheno", "Q4_K_M")
    assert file.name == "Llama-3.1-8B-Stheno-v3.4-Q4_K_M.gguf"
    assert file.repository == "bartowski/Llama-3.1-8B-Stheno-v3.4-GGUF"
    assert entry.licence == "cc-by-nc-4.0"


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        ("stheno", "8B"),
        ("mistral-nemo", "12B"),
        ("mistral-small", "24B"),
        ("qwen3-30b-a3b", "30B-A3B"),
    ],
)
def test_there_is_a_model_of_each_size_that_rigs_serve(model: str, shape: str) -> None:
    entry = Catalogue.read().entries[model]
    assert entry.shape == shape
    assert set(entry.files) == {"Q4_K_M", "Q5_K_M", "Q6_K"}
    assert find_models(model)[0].name == SHAPES[shape].name
    assert find_models(model)[0].n_ctx_train <= entry.context


def test_there_is_a_model_that_outgrows_a_rig() -> None:
    entry, quantisation, file = Catalogue.read().find("llama-70b", "q4_k_m")
    assert (entry.shape, quantisation, entry.licence) == ("70B", "Q4_K_M", "llama3.1")
    assert file.name == "Meta-Llama-3.1-70B-Instruct-Q4_K_M.gguf"
    # The better ones come in several files, so they are not to choose from.
    assert [model.quantisation for model in find_models("llama-70b")] == ["Q4_K_M"]
    assert [model.quantisation for model in find_models("70B")] == ["Q6_K", "Q5_K_M", "Q4_K_M"]


def test_names_are_found_however_they_are_capitalised() -> None:
    assert Catalogue.read().find("Stheno", "q4_k_m")[1] == "Q4_K_M"


@pytest.mark.parametrize(
    ("model", "quantisation", "message"),
    [
        ("sthenno", "Q4_K_M", "no model 'sthenno'; the catalogue has llama-70b, .*, stheno"),
        ("stheno", "Q4", "no quantisation 'Q4' of stheno; there are Q4_K_M, Q5_K_M, Q6_K"),
        ("stheno", "", "no quantisation for stheno; there are Q4_K_M, Q5_K_M, Q6_K"),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(
    model: str, quantisation: str, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        Catalogue.read().find(model, quantisation)


def test_files_may_be_listed_one_by_one_and_lie_in_folders(tmp_path: Path) -> None:
    fields = GOOD | {"file": "", "quantisations": "", "files": '{Q8_0 = "q8/odd.name.gguf"}'}
    _, _, file = Catalogue.read(written(tmp_path / "c.toml", fields)).find("mine", "Q8_0")
    assert (file.path, file.name) == ("q8/odd.name.gguf", "odd.name.gguf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"licence": ""}, "licence is missing"),
        ({"context": ""}, "context is missing"),
        ({"context": "true"}, "context must be a whole number"),
        ({"context": "0"}, "context must be a whole number"),
        ({"title": '" "'}, "title must be a text"),
        ({"repository": "7"}, "repository must be a text"),
        ({"repository": '"model"'}, "repository must be OWNER/NAME, not 'model'"),
        ({"repository": '"https://hub/a/b"'}, "repository must be OWNER/NAME"),
        ({"revision": '"../x"'}, "revision must be a branch"),
        ({"file": '"Model.gguf"'}, "file must contain {quantisation}"),
        ({"file": '"Model-{quantisation}.bin"'}, "must be the path of a .gguf file"),
        ({"file": '"../{quantisation}.gguf"'}, "must be the path of a .gguf file"),
        ({"quantisations": '"Q4_K_M"'}, "quantisations must be a list"),
        ({"quantisations": "[]"}, "quantisations must be a list"),
        ({"quantisations": '["q4"]'}, "'q4' is no quantisation's name"),
        ({"quantisations": ""}, "give either file and quantisations, or files"),
        ({"files": '{Q4_0 = "a.gguf"}'}, "give either file and quantisations, or files"),
        ({"file": "", "quantisations": "", "files": "{}"}, "files must be a table"),
        ({"file": "", "quantisations": "", "files": "{Q4_0 = 1}"}, "'1' must be the path"),
        ({"license": '"mit"'}, "license: not known; there are context, file"),
    ],
)
def test_a_mistake_is_named_with_its_model(
    tmp_path: Path, change: dict[str, str], message: str
) -> None:
    path = written(tmp_path / "c.toml", GOOD | change)
    with pytest.raises(ModelError) as error:
        Catalogue.read(path)
    assert f"{path}: [mine]: " in str(error.value)
    assert message in str(error.value)


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('top = 1\n[One]\ntitle = "x"\n[two]\n')
    with pytest.raises(ModelError) as error:
        Catalogue.read(path)
    lines = str(error.value).splitlines()
    assert any("[top]: must be a table" in line for line in lines)
    assert any("[One]: its name must be lower-case" in line for line in lines)
    assert any("[two]: title is missing" in line for line in lines)


@pytest.mark.parametrize("content", [b"[half", b"\xff\xfe"])
def test_what_is_no_toml_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="is no TOML"):
        Catalogue.read(path)


def test_a_catalogue_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        Catalogue.read(tmp_path / "c.toml")
