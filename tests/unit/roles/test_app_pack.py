"""What the role app packs for a rig."""

import shutil
import subprocess
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROGRAM = {"gunicorn.conf.py", "heartcode", "requirements.in", "requirements.txt"}


def pack(app: Path, cache: Path) -> str:
    command = [ROOT / "roles/app/files/pack.sh", app, cache]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def test_a_rig_gets_the_program_and_nothing_that_lies_beside_it(tmp_path: Path) -> None:
    version = pack(ROOT / "app", tmp_path)
    with tarfile.open(tmp_path / f"{version}.tar.gz") as packed:
        names = {name.split("/")[1] for name in packed.getnames() if name != "."}
    assert names == PROGRAM


def test_what_lies_beside_it_does_not_name_another_version(tmp_path: Path) -> None:
    app = tmp_path / "app"
    shutil.copytree(ROOT / "app", app, ignore=shutil.ignore_patterns("__pycache__"))
    before = pack(app, tmp_path / "cache")
    (app / "heartcode_new").mkdir()
    (app / "heartcode_new/__init__.py").write_text('"""Not for rigs."""\n')
    assert pack(app, tmp_path / "cache") == before
