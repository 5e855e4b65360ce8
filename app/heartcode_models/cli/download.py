"""The command ``scripts/download_model.sh``."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from heartcode_models.catalogue.entries import CATALOGUE, MODELS, Catalogue, Entry
from heartcode_models.catalogue.lock import LOCK, LockFile
from heartcode_models.errors import ModelError
from heartcode_models.files.control import local_place, pinned
from heartcode_models.files.hub import Hub
from heartcode_models.files.place import Wanted
from heartcode_models.files.progress import for_stream
from heartcode_models.files.transfer import Source
from heartcode_models.units import gigabytes

_EPILOG = """\
A download that was interrupted goes on where it ended. What is there and right is not downloaded
again. models/lock.json records what each file is; every later download must match it: commit it.

Environment:
  HF_ENDPOINT   another hub than https://huggingface.co
  HF_TOKEN      your token, for models that ask who you are; it is sent to the hub alone
  HTTPS_PROXY, NO_PROXY, REQUESTS_CA_BUNDLE (or SSL_CERT_FILE)

Exit status: 0 the model is there, 1 it is not, 2 usage, 130 interrupted.
"""
_OK, _FAILED, _INTERRUPTED = 0, 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if not arguments.list and not arguments.model:
        parser.error("name a model and a quantisation: stheno Q4_K_M; --list shows what there is")
    try:
        if arguments.list:
            print(listing(Catalogue.read(arguments.catalogue)))
        else:
            _download(arguments)
    except ModelError as error:
        print(f"download_model.sh: {error}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        print(
            "\ndownload_model.sh: interrupted; what has come is kept, and the same command goes on",
            file=sys.stderr,
        )
        return _INTERRUPTED
    return _OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="download_model.sh",
        description="Download a model of the catalogue, verified.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="stheno, lumimaid, ...")
    parser.add_argument("quantisation", nargs="?", metavar="QUANTISATION", help="Q4_K_M, ...")
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path(os.path.relpath(MODELS)),
        metavar="DIR",
        help="where to put it (default: models/ of this checkout)",
    )
    parser.add_argument("--list", action="store_true", help="print the catalogue instead")
    parser.add_argument(
        "--update",
        action="store_true",
        help="take what the catalogue's revision is now, and pin that",
    )
    parser.add_argument(
        "--catalogue",
        type=Path,
        default=CATALOGUE,
        metavar="FILE",
        help="instead of models/catalogue.toml",
    )
    parser.add_argument(
        "--lock", type=Path, default=LOCK, metavar="FILE", help="instead of models/lock.json"
    )
    return parser


def listing(catalogue: Catalogue) -> str:
    """The catalogue for people."""
    width = max(map(len, catalogue.entries), default=0)
    return "\n".join(
        f"{entry.name:<{width}}  {entry.title}\n"
        f"{'':<{width}}  {', '.join(entry.files)}; {entry.context} tokens; {entry.licence}\n"
        f"{'':<{width}}  {entry.repository}"
        for entry in catalogue.entries.values()
    )


def _download(arguments: argparse.Namespace) -> None:
    entry, quantisation, file = Catalogue.read(arguments.catalogue).find(
        arguments.model, arguments.quantisation or ""
    )
    hub, lock = Hub.from_environment(), LockFile(arguments.lock)
    pin, _ = pinned(hub, lock, file, update=arguments.update)
    print(f"{entry.title}, {quantisation}: {gigabytes(pin.size)} at {pin.commit[:12]}")
    print(f"Licence: {entry.licence}, see {hub.page(file)}")
    source = Source(url=hub.url(file, pin.commit), token=hub.token)
    place = local_place(arguments.directory, for_stream())
    fetched = place.fetch(Wanted(name=file.name, sha256=pin.sha256, size=pin.size), [source])
    path = arguments.directory / file.name
    print(f"{path} {'is complete' if fetched else 'was there already'}: SHA-256 {pin.sha256}")
    if lock.put(file, pin):
        print(f"Pinned in {arguments.lock}: commit that file.")
    _say_how_to_serve(entry, quantisation)


def _say_how_to_serve(entry: Entry, quantisation: str) -> None:
    print(f"In the inventory: model_name: {entry.name}, model_quantisation: {quantisation}")
    if entry.template:
        print(f"Prompts: {entry.template}")
