"""The table of VRAM in the README, as the planner's own criteria make it."""

from heartcode_models.errors import ModelError
from heartcode_models.gguf.model import Model
from heartcode_models.planner.cards import MINING_CARDS, Card, make_card, nominal_vram
from heartcode_models.planner.choose import fits, good_settings
from heartcode_models.planner.known_models import QUANTISATIONS, known_model
from heartcode_models.planner.settings import HandSet

_MOST_GB = 80

HEAD = """\
| Quantisation | Model size | Min VRAM | Recommended GPU |
| --- | --- | --- | --- |
"""


def min_vram_gb(model: Model) -> int:
    """The smallest card, in whole GB, on which the planner chooses this file for its quality.

    That is: two conversations of 8192 tokens have room beside it.

    Raises:
        ModelError: no card is that large.
    """
    good = good_settings(model, HandSet())
    for gigabytes in range(1, _MOST_GB + 1):
        card = Card(name=f"{gigabytes} GB", vram=nominal_vram(gigabytes))
        if fits((card,), model, good):
            return gigabytes
    raise ModelError(f"{model.name} {model.quantisation} fits on no card of up to {_MOST_GB} GB")


def recommended_card(model: Model) -> str:
    """The smallest mining card on which the planner chooses this file for its quality."""
    good = good_settings(model, HandSet())
    for name in MINING_CARDS:
        card = make_card(name)
        if card and fits((card,), model, good):
            return name
    return "none"


def requirements() -> str:
    """The table, in Markdown; a GB of a file is 10**9 bytes, as download pages count."""
    rows = [known_model("8B", name) for name in reversed(QUANTISATIONS)]
    return HEAD + "".join(
        f"| {model.quantisation} | {model.file_bytes / 1e9:.1f} GB | {min_vram_gb(model)} GB"
        f" | {recommended_card(model)} |\n"
        for model in rows
    )
