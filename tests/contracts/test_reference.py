"""The written reference is what the code says."""

from heartcode.api.routes import ENDPOINTS, LEFT_OUT
from heartcode.settings import TABLE

from tests.contracts.test_roles import load
from tools import reference


def test_the_reference_is_up_to_date() -> None:
    stale = [
        str(path.relative_to(reference.ROOT))
        for path, text in reference.pages().items()
        if not path.exists() or path.read_text() != text
    ]
    assert stale == [], "run `make docs`"


def test_every_setting_has_a_unit_and_a_sentence() -> None:
    assert [row.variable for row in TABLE if not row.unit or not row.sentence] == []


def test_every_role_has_a_page() -> None:
    roles = {path.name for path in reference.ROOT.glob("roles/*") if path.is_dir()}
    assert {path.parent.name for path in reference.pages() if path.parts[-3] == "roles"} == roles


def test_the_table_of_versions_tells_which_llama_cpp_is_built() -> None:
    build = load("roles/llama_cpp/defaults/main.yml")["llama_cpp_source_build"]
    page = (reference.ROOT / "docs/llama-server.md").read_text()
    _, _, versions = page.partition("\n## Versions\n")
    assert f"\n| unreleased | {build} " in versions
    assert f"({build}) unless" in page


def test_what_is_left_out_of_llama_server_is_told_with_its_reason() -> None:
    page = (reference.ROOT / "docs/llama-server.md").read_text()
    _, _, told = page.partition("\n## Routes that are left out\n")
    rows = [line for line in told.split("\n## ")[0].splitlines() if line.startswith("| `")]
    assert rows == [f"| `{route}` | {reason} |" for route, reason in LEFT_OUT.items()]
    served = {path for endpoint in ENDPOINTS for path in endpoint.paths}
    assert [route for route in LEFT_OUT if route.removeprefix("POST ") in served] == []
