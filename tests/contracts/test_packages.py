"""Who may import whom: the product knows no tools, and between packages arrows go down only."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "app/heartcode_models"
#: From the bottom up; what stands in one row does not know each other.
LAYERS = (
    ("cache", "errors", "units"),
    ("gguf",),
    ("catalogue", "demo"),
    ("files", "planner"),
    ("tuning",),
    ("cli",),
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
#: Each package of app/ is for itself.
APP = ("heartcode", "heartcode_benchmark", "heartcode_models")
OURS = {*APP, "tools", "scripts", "tests", "plugins", "roles"}


def imported(path: Path) -> Iterator[str]:
    """Every name that a file imports, by its full path."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, path
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", APP)
def test_a_package_of_the_product_needs_no_other_of_ours(package: str) -> None:
    for path in (ROOT / "app" / package).rglob("*.py"):
        ours = {name.split(".")[0] for name in imported(path)} & OURS
        assert ours <= {package}, path


def test_every_part_of_the_models_package_has_a_layer() -> None:
    parts = {path.stem for path in MODELS.iterdir() if path.stem.isidentifier()}
    assert parts - {"__init__", "__pycache__"} == set(LAYER)


@pytest.mark.parametrize("part", LAYER)
def test_what_is_below_knows_nothing_of_what_is_above(part: str) -> None:
    whole = MODELS / part
    for path in whole.rglob("*.py") if whole.is_dir() else [whole.with_suffix(".py")]:
        for name in imported(path):
            package, _, rest = name.partition(".")
            other = rest.partition(".")[0]
            if package == MODELS.name and other != part:
                assert LAYER[other] < LAYER[part], (path, name)
