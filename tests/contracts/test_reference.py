"""The written reference is what the code says."""

from heartcode.settings import TABLE

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
