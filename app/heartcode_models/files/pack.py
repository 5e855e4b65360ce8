"""Packs this code into one file that a host's python3 runs."""

import hashlib
import io
import tempfile
import zipfile
from pathlib import Path

from heartcode_models.errors import ModelError

_PACKAGE = Path(__file__).parents[1]
#: What a host needs of it: nothing is planned there.
_MODULES = ("*.py", "gguf/*.py", "catalogue/*.py", "files/*.py")
_START = "import sys\nfrom heartcode_models.files.role import main\nsys.exit(main())\n"
#: The same code gives the same file in every clone.
_TIME = (1980, 1, 1, 0, 0, 0)


def pack(directory: Path) -> Path:
    """Write the program into a directory, named after its content.

    Raises:
        ModelError: it cannot be written.
    """
    files = {"__main__.py": _START.encode()}
    for path in (path for pattern in _MODULES for path in _PACKAGE.glob(pattern)):
        files[str(path.relative_to(_PACKAGE.parent))] = path.read_bytes()
    data = io.BytesIO(b"#!/usr/bin/python3\n")
    data.seek(0, io.SEEK_END)
    with zipfile.ZipFile(data, "a") as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, _TIME), files[name])
    content = data.getvalue()
    path = directory / f"heartcode-model-{hashlib.sha256(content).hexdigest()[:12]}.pyz"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # Several hosts' tasks do this at the same time: each has a part of its own.
        with tempfile.NamedTemporaryFile(dir=directory, suffix=".part", delete=False) as part:
            part.write(content)
        Path(part.name).replace(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be written: {error.strerror}") from None
    return path
