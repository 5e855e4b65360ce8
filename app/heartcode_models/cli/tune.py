"""The command ``scripts/tune.py``, which the role ``tuning`` runs on the control node.

Both of its subcommands read a host's description from the standard input and print JSON.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from heartcode_models.errors import ModelError
from heartcode_models.gguf.model import Model
from heartcode_models.planner.cards import uuids_of
from heartcode_models.planner.find_models import find_models
from heartcode_models.tuning.card import TunedCard, cards_of
from heartcode_models.tuning.choose import Measured, Turn, best
from heartcode_models.tuning.grid import grid_of, measured_turn
from heartcode_models.tuning.report import Outcome, entries, table

_FAILED = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code."""
    parser = argparse.ArgumentParser(
        prog="tune.py",
        description="Decide what to measure on a host's cards, and what is best of it."
        " Run by playbooks/tune.yml; reads a host's description and prints JSON.",
    )
    commands = {"grid": _grid, "choose": _choose}
    parser.add_argument("command", choices=commands)
    command = commands[parser.parse_args(argv).command]
    try:
        print(json.dumps(command(json.load(sys.stdin)), indent=1))
    except (ModelError, ValueError) as error:
        print(f"tune.py: {error}", file=sys.stderr)
        return _FAILED
    return 0


def _model(host: Mapping[str, Any], card: TunedCard) -> Model:
    # Of a card with a file of its own nothing is known but the file's name.
    wanted = host["model"] if card.model_file == host["model_file"] else card.model_file
    found = find_models(wanted)
    if len(found) > 1:
        raise ModelError(
            f"{card.where}: '{wanted}' does not tell the quantisation. Set tuning_model to"
            " the GGUF's path on this machine or its URL, or to a size and a quantisation like"
            " '8B Q4_K_M'."
        )
    return found[0]


def _grid(host: Mapping[str, Any]) -> Any:
    return [_plan(card, host) for card in cards_of(host)]


def _plan(card: TunedCard, host: Mapping[str, Any]) -> dict[str, Any]:
    if not card.cards and host["backend"] != "cpu":
        which = "the card" if len(uuids_of(card.uuid)) == 1 else "a card of the group"
        return {"uuid": card.uuid, "candidates": [], "left_out": [f"{which} is not there"]}
    grid = grid_of(card, _model(host, card), host["grid"])
    return {
        "uuid": card.uuid,
        "candidates": [candidate.as_data() for candidate in grid.candidates],
        "left_out": list(grid.left_out),
        **measured_turn(card, host["turn"], host["depth"]),
    }


def _choose(host: Mapping[str, Any]) -> Any:
    turn = Turn(**host["turn"])
    outcomes = [
        _outcome(card, _model(host, card), host["results"].get(card.uuid) or {}, turn)
        for card in cards_of(host)
    ]
    return {
        "table": table(outcomes, turn),
        "cards": entries(outcomes),
        "nothing_measured": [outcome.card.uuid for outcome in outcomes if not outcome.after],
    }


def _outcome(card: TunedCard, model: Model, found: Mapping[str, Any], turn: Turn) -> Outcome:
    results = [Measured.from_data(data, card.where) for data in found.get("measured", ())]
    remarks = [f"not measured: {why}" for why in found.get("left_out", ())]
    remarks += [f"failed: {why}" for why in found.get("failed", ())]
    return Outcome(
        card=card,
        before=next((result for result in results if result.candidate == card.current), None),
        after=best(card, model, results, turn) if results else None,
        remarks=remarks,
    )
