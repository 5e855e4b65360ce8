"""host_generation: what a host served with can be had again, whatever came between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plugins.modules.host_generation import Generations, do

PATTERNS = ("/etc/*.env", "/units/*", "/units/*.d/*", "/opt/current")


class Host:
    """A host with one setting, one unit and one link."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file("etc/a.env", "one")
        self.file("units/a.service", "unit")
        self.file("elsewhere/b.env", "not among them")
        self.link("1")

    def file(self, path: str, text: str, mode: int = 0o644) -> None:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)

    def link(self, version: str) -> None:
        place = self.root / "opt/current"
        place.parent.mkdir(exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(version)

    @property
    def generations(self) -> Generations:
        """As the next call of the module finds them."""
        return Generations(self.root / "kept", PATTERNS, self.root)

    def do(self, verb: str, *, check: bool = False, **arguments: Any) -> dict[str, Any]:
        told = {"do": verb, "_ansible_check_mode": check, **arguments}
        return do(told, self.generations)

    def restore(self, **arguments: Any) -> dict[str, Any]:
        """Restore all that the module does not leave to others, and settle."""
        told = self.do("restore", **arguments)
        self.do("settle")
        return told

    @property
    def setting(self) -> str:
        return (self.root / "etc/a.env").read_text()

    @property
    def state(self) -> dict[str, Any]:
        return self.generations.entries(self.root)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_host_that_was_deployed_once_has_nothing_to_go_back_to(host: Host) -> None:
    assert host.do("look")["target"] == ""
    assert host.do("record")["changed"]
    assert not host.do("record")["changed"]
    assert host.do("look")["target"] == ""
    assert not host.restore()["changed"]


def test_the_way_back_restores_all_and_removes_what_has_come(host: Host) -> None:
    host.file("etc/a.env", "one", 0o640)
    host.do("record")
    before = host.state
    host.file("etc/a.env", "two")
    host.file("etc/new.env", "new")
    host.file("units/a.service.d/limits.conf", "new")
    host.link("2")
    host.do("record")
    looked = host.do("look")
    assert looked["paths"] == [
        "/etc/a.env",
        "/etc/new.env",
        "/opt/current",
        "/units/a.service.d/limits.conf",
    ]
    assert host.do("restore", check=True)["changed"]
    assert host.setting == "two"
    assert host.restore()["paths"] == looked["paths"]
    assert host.state == before


def test_going_back_twice_is_going_back_once(host: Host) -> None:
    host.do("record")
    host.file("etc/a.env", "two")
    host.do("record")
    host.restore()
    again = host.restore()
    assert not again["changed"]
    assert again["target"]
    assert host.setting == "one"


def test_after_a_deployment_that_was_interrupted_what_it_found_comes_back(host: Host) -> None:
    host.do("record")
    host.file("etc/a.env", "two")
    host.do("record")
    host.file("etc/a.env", "three, and then the power was cut")
    host.restore()
    assert host.setting == "two"
    # And not the one before that, when it is asked for again.
    host.restore()
    assert host.setting == "two"


def test_what_was_interrupted_on_its_way_back_goes_on(host: Host) -> None:
    host.do("record")
    host.file("etc/a.env", "two")
    host.do("record")
    host.do("restore")
    # Its files are in place, and nobody has told the services.
    assert host.do("look")["paths"] == ["/etc/a.env"]
    assert host.restore()["paths"] == ["/etc/a.env"]
    assert host.do("look")["paths"] == []


def test_a_deployment_that_failed_is_put_back_and_can_go_back_further(host: Host) -> None:
    host.do("record")
    host.file("etc/a.env", "two")
    host.do("record")
    host.file("etc/a.env", "three")
    host.restore(only="serving")
    assert host.setting == "two"
    host.restore()
    assert host.setting == "one"


def test_the_next_deployment_after_a_way_back_leads_back_to_where_that_led(host: Host) -> None:
    for setting in ("one", "bad"):
        host.file("etc/a.env", setting)
        host.do("record")
    host.restore()
    host.file("etc/a.env", "good")
    host.do("record")
    host.restore()
    assert host.setting == "one"


def test_a_way_back_that_a_deployment_confirms_leads_no_further(host: Host) -> None:
    for setting in ("one", "bad"):
        host.file("etc/a.env", setting)
        host.do("record")
    host.restore()
    assert host.do("record")["changed"]
    assert host.do("look")["target"] == ""
    host.restore()
    assert host.setting == "one"


def test_what_others_put_in_its_place_is_left_to_them(host: Host) -> None:
    host.file("units/b.d/limits.conf", "one")
    host.do("record")
    host.file("etc/a.env", "two")
    (host.root / "units/b.d/limits.conf").unlink()
    (host.root / "units/b.d").rmdir()
    host.do("record")
    told = host.do("restore", leave=["/etc/[a-z].env", "/units/b.d/limits.conf"])
    assert host.setting == "two"
    assert (host.root / "units/b.d").is_dir()
    assert (Path(told["tree"]) / "etc/a.env").read_text() == "one"


def test_only_two_are_kept(host: Host) -> None:
    for setting in ("one", "two", "three"):
        host.file("etc/a.env", setting)
        host.do("record")
    kept = [path for path in (host.root / "kept").iterdir() if path.is_dir()]
    assert len(kept) == 2
    assert all(path.stat().st_mode & 0o077 == 0 for path in (host.root / "kept", *kept))


def test_a_rig_that_was_deployed_before_keeps_what_it_has(host: Host) -> None:
    sign = str(host.root / "etc/a.env")
    assert not host.do("begin", when=sign + ".none")["changed"]
    assert host.do("begin", when=sign)["changed"]
    assert not host.do("begin", when=sign)["changed"]
    host.file("etc/a.env", "two")
    host.do("record")
    host.restore()
    assert host.setting == "one"


def test_a_dry_run_writes_nothing(host: Host) -> None:
    host.do("record", check=True)
    host.do("begin", check=True, when=str(host.root))
    assert not (host.root / "kept").exists()


def test_an_index_that_cannot_be_read_is_said(host: Host) -> None:
    host.do("record")
    (host.root / "kept/index.json").write_text("{")
    with pytest.raises(Exception, match=r"index\.json cannot be read"):
        host.do("look")


def test_times_are_of_what_is_kept(host: Host) -> None:
    for setting in ("one", "two", "three"):
        host.file("etc/a.env", setting)
        host.do("record")
    index = json.loads((host.root / "kept/index.json").read_text())
    assert set(index["times"]) == {index["serving"], index["before"]}
    assert host.do("look")["kept_at"].endswith(" UTC")
