"""What the planner knows agrees with its sources and with what others write."""

import ast
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml
from gguf.constants import GGML_QUANT_SIZES, LlamaFileType
from heartcode_models.cli import plan
from heartcode_models.gguf.ggml_types import KV_TYPES, TYPES
from heartcode_models.gguf.read_model import FILE_TYPES
from heartcode_models.planner.min_vram import requirements
from heartcode_models.planner.settings import LOAD_MODES
from heartcode_models.planner.vram import VramNeed

ROOT = Path(__file__).parents[2]

#: The first release's table: quantisation, size, least VRAM, card.
FIRST_README = [
    ("Q4_K_M", "4.9 GB", "6 GB", "P106-100"),
    ("Q5_K_M", "5.7 GB", "7 GB", "P104-100"),
    ("Q6_K", "6.6 GB", "8 GB", "P104-100"),
]


def test_the_planner_makes_the_first_readme_s_table() -> None:
    rows = [tuple(re.findall(r"[^|]+", line)) for line in requirements().splitlines()[2:]]
    assert [tuple(cell.strip() for cell in row) for row in rows] == FIRST_README


def test_the_readme_has_the_planner_s_table() -> None:
    assert requirements() in (ROOT / "README.md").read_text()


def test_tensor_types_have_the_sizes_that_the_library_knows() -> None:
    library = {int(kind): (kind.name, sizes) for kind, sizes in GGML_QUANT_SIZES.items()}
    assert {n: (kind.name, (kind.block, kind.size)) for n, kind in TYPES.items()} == library


def test_file_types_have_the_names_that_the_library_knows() -> None:
    names = {int(kind): re.sub("^(MOSTLY|ALL)_", "", kind.name) for kind in LlamaFileType}
    assert {number: names[number] for number in FILE_TYPES} == FILE_TYPES


def test_words_that_the_role_takes_are_the_planner_s() -> None:
    specs = yaml.safe_load((ROOT / "roles/llama_server/meta/argument_specs.yml").read_text())
    options = specs["argument_specs"]["main"]["options"]
    own = options["llama_server_gpus"]["options"]
    assert tuple(own["kv_type"]["choices"]) == KV_TYPES
    # Empty is the planner's choice, and the planner refuses other words.
    for name, words in (("kv_type", KV_TYPES), ("load_mode", LOAD_MODES)):
        told = options[f"llama_server_{name}"]["description"]
        assert all(re.search(rf"\b{word}\b", told) for word in words)


def test_formulas_name_their_source() -> None:
    files = ("planner/vram.py", "gguf/kv_cache.py")
    trees = [ast.parse((ROOT / "app/heartcode_models" / file).read_text()) for file in files]
    functions = [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]
    documented = {node.name: ast.get_docstring(node) or "" for node in functions}
    formulas = (
        "weights",
        "kv_bytes_per_token",
        "compute_buffer",
        "pool",
        "first_gpu_layer",
        "weights_of",
    )
    for name in formulas:
        assert re.search(r"\w+\.(cpp|cu|cuh)\b", documented[name]), name
    assert set(VramNeed.__dataclass_fields__) == {"weights", "kv", "compute", "pool", "runtime"}


def test_pages_name_models_that_the_catalogue_has() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "inventory").glob("*.yml")]
    named = {
        name for page in pages for name in re.findall(r"model_name: ([\w.-]+)", page.read_text())
    }
    assert {"stheno", "mistral-small"} <= named
    assert named <= tomllib.loads((ROOT / "models/catalogue.toml").read_text()).keys()


def shown(page: str, command: str) -> list[str]:
    """The lines that a page shows below a command, without those that it leaves out."""
    text = (ROOT / page).read_text()
    block = text[text.index(f"$ {command}\n") :].split("```")[0].splitlines()[1:]
    return [line for line in block if line.strip() and line.strip() != "..."]


def test_pages_show_what_plan_py_says_of_groups(capsys: pytest.CaptureFixture[str]) -> None:
    rig = "P106-100 x 6, 8 GB RAM, 2 cores"
    for page, arguments in (
        ("README.md", "--groupings"),
        ("README.md", "--model 24B"),
        ("docs/planning.md", "--model 24B"),
        ("docs/planning.md", '--helper "rig2: P106-100 x 6, 8 GB RAM" --model llama-70b'),
    ):
        assert plan.main([rig, *shlex.split(arguments)]) == 0
        said = capsys.readouterr().out.splitlines()
        lines = shown(page, f'scripts/plan.py "{rig}" {arguments}')
        assert len(lines) > 5
        assert [line for line in lines if line not in said] == []
