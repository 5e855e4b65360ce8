"""The command ``scripts/plan.py``."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from heartcode_models.errors import ModelError
from heartcode_models.gguf.ggml_types import KV_TYPES
from heartcode_models.gguf.model import Model
from heartcode_models.planner import report
from heartcode_models.planner.cards import GIGABIT, Rig, known_cards
from heartcode_models.planner.description import EXAMPLE, parse_helper, parse_network, parse_rig
from heartcode_models.planner.facts import plan_fleet
from heartcode_models.planner.find_models import find_models, stands_in
from heartcode_models.planner.grouping import plan_grouped, proposals
from heartcode_models.planner.known_models import SHAPES
from heartcode_models.planner.min_vram import requirements
from heartcode_models.planner.over_rigs import plan_over_rigs
from heartcode_models.planner.rig_plan import RigPlan
from heartcode_models.planner.settings import LOAD_MODES, HandSet

_HELP = {
    "n_ctx": "tokens of one conversation",
    "slots": "conversations at a time on one card",
    "kv_type": "type of K and V",
    "n_batch": "tokens of a prompt handed over together",
    "n_ubatch": "tokens computed together",
    "n_gpu_layers": "layers on the card, the output counted as one, or all",
    "n_cpu_moe": "layers, from the first, whose experts stay in host RAM, or all",
    "n_threads": "CPU threads of one llama-server",
    "cache_ram_mib": "MiB of host RAM for each card's prompts that lost their slot",
    "load_mode": "how the file is read",
}

_EPILOG = f"""\
A rig in words: its cards, kinds joined by +, then RAM, cores, PCIe width (x1: risers) and disk, as
people write them ("6x P106-100, RAM: 8GB, dual core, SSD 120 GB").
  scripts/plan.py "P106-100 x 6, 4 GB RAM"
  scripts/plan.py "{EXAMPLE}, 60 GB disk" "rig2: P104-100 4 GB x 3, 4 GB RAM"
  scripts/plan.py "6 x GTX 1070, 8 GB RAM" --model https://host/model-Q6_K.gguf
A model that no card holds is planned for groups, as few cards each as hold it:
  scripts/plan.py "P106-100 x 6, 8 GB RAM" --model 24B
  scripts/plan.py "P106-100 x 6, 8 GB RAM" --model 30B-A3B --groups 0+1+2+3,4+5
  scripts/plan.py "P106-100 x 6, 8 GB RAM" --groupings
One that no rig holds is planned over several, all cards of which are one backend's:
  scripts/plan.py "P106-100 x 6, 8 GB RAM" --helper "P106-100 x 6, 8 GB RAM" --model 70B
The memory of these cards is known; of others write it behind the name ("RTX 3060 12 GB"):
  {", ".join(known_cards()[:5])},
  {", ".join(known_cards()[5:])}

Exit status: 0 every card can serve, 3 something does not fit, 1 nothing could be planned, 2 usage.
docs/planning.md has the formulas. playbooks/plan.yml plans for the hosts of an inventory.
"""

_OK, _FAILED, _DOES_NOT_FIT = 0, 1, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if not (arguments.rigs or arguments.facts or arguments.requirements):
        parser.error(f'describe a rig, for example: "{EXAMPLE}"')
    if arguments.groupings and (arguments.groups or arguments.inventory):
        parser.error("--groupings tries all groups: leave --groups and --inventory out")
    if arguments.facts and (arguments.groups or arguments.groupings):
        parser.error("groups are planned for rigs in words: leave --facts out")
    if fault := _cannot_help(arguments):
        parser.error(fault)
    try:
        if arguments.requirements:
            print(requirements(), end="")
            return _OK
        plans, failures = _plans(arguments)
    except ModelError as error:
        print(f"plan.py: {error}", file=sys.stderr)
        return _FAILED
    for failure in failures:
        print(f"plan.py: {failure}", file=sys.stderr)
    if not plans:
        return _FAILED
    try:
        _print(plans, arguments)
    except ModelError as error:
        print(f"plan.py: {error}", file=sys.stderr)
        return _FAILED
    return _OK if all(plan.works for plan in plans) and not failures else _DOES_NOT_FIT


def _cannot_help(arguments: argparse.Namespace) -> str | None:
    """Why what is asked for does not go together with helpers."""
    if not arguments.helper:
        said = "--network is between a rig and its helpers: give --helper"
        return None if arguments.network is None else said
    if arguments.facts:
        return "helpers are planned for rigs in words: leave --facts out"
    if arguments.groups or arguments.groupings:
        return "a rig with helpers has one backend on all cards: leave --groups, --groupings out"
    if len(arguments.rigs) > 1:
        return "--helper is for one rig: describe one, and its helpers with --helper each"
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="plan.py",
        description="Say what a rig's cards can serve: quantisation, context, slots, batch, cache.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("rigs", nargs="*", metavar="RIG", help="a rig in words")
    parser.add_argument(
        "--model",
        default="8B",
        metavar="WHAT",
        help="a GGUF's path or URL (only its header is read), a model of the catalogue,"
        f" {', '.join(SHAPES)} or, with a quantisation, '8B Q4_K_M' (default: the best 8B)",
    )
    parser.add_argument(
        "--groups",
        metavar="GROUPS",
        help="cards of each backend: how many (3), or their numbers from 0 (0+1+2,3+4+5);"
        " default: as few as hold the model",
    )
    parser.add_argument(
        "--groupings",
        action="store_true",
        help="what each rig could serve with other models and groups of other sizes",
    )
    parser.add_argument(
        "--helper",
        action="append",
        default=[],
        metavar="RIG",
        help="a host in words that lends all of its cards to the rig, for a model that outgrows it;"
        " several times for several",
    )
    parser.add_argument(
        "--network",
        metavar="SPEED",
        help="between the rig and its helpers, as in 2.5Gbit, or measured, as in '110 MiB/s'"
        " (default: 1Gbit)",
    )
    parser.add_argument("--json", action="store_true", help="for scripts")
    parser.add_argument(
        "--inventory", action="store_true", help="print variables for the inventory"
    )
    parser.add_argument(
        "--requirements", action="store_true", help="print the README's table of VRAM instead"
    )
    # For playbooks/plan.yml: without a help text it is not listed.
    parser.add_argument("--facts", metavar="FILE", help=argparse.SUPPRESS)
    hand = parser.add_argument_group("set by hand, and checked against the same budget")
    choices = {"kv_type": KV_TYPES, "load_mode": LOAD_MODES}
    for field in fields(HandSet):
        option = "--" + field.name.replace("_", "-")
        hand.add_argument(option, help=_HELP[field.name], choices=choices.get(field.name))
    return parser


def _hand(arguments: argparse.Namespace) -> HandSet:
    return HandSet.from_mapping(vars(arguments), "command line")


def _plans(arguments: argparse.Namespace) -> tuple[Sequence[RigPlan], Sequence[str]]:
    """The plans, and why there are none for the other hosts."""
    hand = _hand(arguments)
    if arguments.facts:
        fleet = plan_fleet(_facts(arguments.facts), hand)
        return fleet.plans, fleet.failures
    models = find_models(arguments.model)
    names = [f"rig{number}" for number in range(1, len(arguments.rigs) + 1)]
    rigs = [
        _assuming(parse_rig(text, name), stands_in(arguments.model, models))
        for text, name in zip(arguments.rigs, names, strict=True)
    ]
    if arguments.groupings:
        return _proposals(rigs, models, hand)
    if arguments.helper:
        (rig,) = rigs
        helped = _with_helpers(rig, arguments.helper, arguments.network)
        return [plan_over_rigs(helped, models, hand)], ()
    return [plan_grouped(rig, models, hand, arguments.groups) for rig in rigs], ()


def _assuming(rig: Rig, notes: Sequence[str]) -> Rig:
    return replace(rig, assumed=(*rig.assumed, *notes))


def _with_helpers(rig: Rig, texts: Sequence[str], network: str | None) -> Rig:
    read = [parse_helper(text, f"helper{number}") for number, text in enumerate(texts, 1)]
    return replace(
        rig,
        helpers=tuple(helper for helper, _ in read),
        network=GIGABIT if network is None else parse_network(network),
        assumed=(*rig.assumed, *(note for _, notes in read for note in notes)),
    )


def _proposals(
    rigs: Sequence[Rig], models: Sequence[Model], hand: HandSet
) -> tuple[Sequence[RigPlan], Sequence[str]]:
    plans, failures = [], []
    for rig in rigs:
        made = list(proposals(rig, models, hand))
        plans += made
        if not made:
            failures.append(f"{rig.name}: none of the models that are known here fits on it")
    return plans, failures


def _facts(path: str) -> Any:
    try:
        with open(path) if path != "-" else sys.stdin as file:  # noqa: PTH123 (stdin is no path)
            return json.load(file)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from None


def _print(plans: Sequence[RigPlan], arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps([report.as_data(plan) for plan in plans], indent=2))
    elif arguments.groupings:
        print(report.groupings(plans))
    elif arguments.inventory:
        print("\n".join(report.inventory(plan) for plan in plans))
    else:
        print(report.table(plans))
