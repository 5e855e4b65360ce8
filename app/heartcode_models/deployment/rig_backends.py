"""What each backend of a rig serves: what the inventory says, and what the planner chooses."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from heartcode_models.deployment.candidates import Candidate, Library, by_file
from heartcode_models.deployment.cards import (
    MaybeCards,
    all_known,
    architectures,
    cards_of,
    mixed_groups,
    named,
    too_old,
)
from heartcode_models.deployment.helpers import (
    Lender,
    lenders_of,
    one_backend,
    own_cards,
)
from heartcode_models.errors import ModelError
from heartcode_models.planner import report
from heartcode_models.planner.cards import AND, UNTOLD, Rig, uuids_of
from heartcode_models.planner.choose import Refusal
from heartcode_models.planner.grouping import few_cards, left_over
from heartcode_models.planner.layer_split import Cards
from heartcode_models.planner.network import network_of
from heartcode_models.planner.over_rigs import cannot_be_one, plan_over_rigs
from heartcode_models.planner.rig_plan import RigPlan, Server, plan_rig, threads_for
from heartcode_models.planner.settings import ALL_LAYERS, HandSet
from heartcode_models.units import MIB

#: What counts where nobody knows the model and nobody has said it: the first release's values.
_UNPLANNED = {
    "n_ctx": 4096,
    "slots": 1,
    "kv_type": "q8_0",
    "n_batch": 512,
    "n_ubatch": 512,
    "n_gpu_layers": ALL_LAYERS,
    "load_mode": "none",
}


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """What a rig's backends serve.

    Attributes:
        name: The rig's.
        backends: For each backend in order all of its settings, named as in ``llama_server_gpus``;
            empty with faults. Of a group ``uuid`` is those of its cards (`uuids_of`), and
            ``tensor_split`` says how its layers are shared out.
        models: The files as the roles model and model_mirror are asked for them, the first for
            every backend that does not name another.
        cuda_arch: What llama.cpp is compiled for, as cmake wants it (``61-real;75-real``); "" where
            no card's compute capability is known.
        table: The plan for people, as scripts/plan.py prints it; "" where nothing was planned.
        waits: Whether a backend's card is one that only a driver will tell of.
        faults: Why it cannot be, a sentence each.
        notes: What is worth knowing beside the table's own notes.
    """

    name: str
    backends: Sequence[Mapping[str, Any]] = ()
    models: Sequence[Mapping[str, str]] = ()
    cuda_arch: str = ""
    table: str = ""
    waits: bool = False
    faults: Sequence[str] = ()
    notes: Sequence[str] = ()


def deploy(host: Mapping[str, Any]) -> Deployment:
    """Decide for one rig.

    Args:
        host: What the role rig knows of it: ``name``, ``ram_mib``, ``cores``, ``nvidia_smi`` and
            ``bus`` (lines), ``gpus`` (its backends in their order, each with its card or cards and
            what is set for it), ``found`` (whether these are cards that nobody has named, and of
            which the planner makes groups where a model wants them), ``former`` (the backends of
            the last deployment), ``backend``
            (llama_cpp_backend), ``values`` (what is set for all cards, None where it is not),
            ``model_name`` (llama_server_model_name or ""), ``models`` (questions to
            scripts/model.py), ``shapes``, ``catalogue``, ``lock``, ``endpoint`` and ``token`` (see
            `Library`). Where other hosts lend it their cards: ``helpers``, for each its ``name``,
            ``address`` and ``port`` and, as of a rig, ``ram_mib``, ``backend``, ``nvidia_smi``,
            ``bus`` and ``gpus``; and ``network_mib_s`` between it and them.
    """
    try:
        if lenders := lenders_of(host):
            return _deploy_over(host, lenders)
        return _deploy(host)
    except ModelError as error:
        return Deployment(name=host["name"], faults=(str(error),))


def _deploy(host: Mapping[str, Any]) -> Deployment:
    library = Library(host, host["shapes"])
    first, *more = [library.candidates(question) for question in host["models"]]
    known = by_file([*first, *(one for several in more for one in several)])
    choices = [_choice(gpu, first, known, library) for gpu in host["gpus"]]
    unknown = [one.unknown for choice in choices for one in choice if one.model is None]
    if unknown and host["found"]:
        # What the planner cannot know it leaves as it was.
        host = {**host, "gpus": _as_before(host)}
        choices = [first] * len(host["gpus"])
    cards = cards_of(host)
    if faults := (*too_old(cards), *mixed_groups(host["gpus"], cards)):
        return Deployment(name=host["name"], faults=faults)
    waiting = [name for name, card in named(host["gpus"], cards) if card is None]
    if unknown or waiting:
        made = _unplanned(host, cards, choices, unknown, waiting)
    elif host["found"] and host["backend"] != "cpu":
        made = _grouped(host, all_known(cards), first)
    else:
        made = _planned(host, _plan(host, all_known(cards), first, choices), choices)
    if made.faults:
        return made
    waits = any(
        uuid.startswith(UNTOLD) for gpu in host["gpus"] for uuid in uuids_of(str(gpu["uuid"]))
    )
    return replace(made, cuda_arch=architectures(host, cards), waits=waits)


def _deploy_over(host: Mapping[str, Any], lenders: Sequence[Lender]) -> Deployment:
    """For a rig to which others lend their cards: one backend, with all of them."""
    own = own_cards(host)
    rig = replace(
        _rig(host, [tuple(card for card in own if card)]),
        helpers=tuple(lender.as_helper() for lender in lenders),
        network=network_of(host.get("network_mib_s")),
    )
    if faults := cannot_be_one(rig):
        return Deployment(name=host["name"], faults=faults)
    host = one_backend(host, lenders)
    library = Library(host, host["shapes"])
    first, *more = [library.candidates(question) for question in host["models"]]
    known = by_file([*first, *(one for several in more for one in several)])
    (gpu,) = host["gpus"]
    choice = _choice(gpu, first, known, library)
    lent = tuple(card for lender in lenders for card in lender.cards)
    cards: MaybeCards = lent if host["backend"] == "cpu" else (*lent, *own)
    if faults := too_old([cards]):
        return Deployment(name=host["name"], faults=faults)
    unknown = [one.unknown for one in choice if one.model is None]
    waiting = [name for name, card in named(host["gpus"], [cards]) if card is None]
    if unknown or waiting:
        made = _unplanned(host, [cards], [choice], unknown, waiting)
    else:
        plan = plan_over_rigs(
            rig,
            _models(first),
            _hand(host["values"], "inventory", host),
            _hand(gpu, f"card {gpu['uuid']}", host),
            _models(choice),
        )
        made = _planned(host, plan, [choice])
    if made.faults:
        return made
    (backend,) = made.backends
    return replace(
        made,
        backends=[{**backend, "helpers": [lender.as_data() for lender in lenders]}],
        cuda_arch=architectures(host, [cards]),
        waits=any(uuid.startswith(UNTOLD) for uuid in uuids_of(str(gpu["uuid"]))),
    )


def _grouped(
    host: Mapping[str, Any], cards: Sequence[Cards], first: Sequence[Candidate]
) -> Deployment:
    """For cards that nobody has named: as few for each backend as hold the model."""
    rig = _rig(host, cards)
    made = few_cards(rig, _models(first), _hand(host["values"], "inventory", host))
    gpus = [{"uuid": AND.join(card.uuid for card in group)} for group in made.groups]
    grouped = {**host, "gpus": gpus}
    choices = [first] * len(gpus)
    deployment = _planned(grouped, _plan(grouped, made.groups, first, choices), choices)
    return replace(deployment, notes=left_over(rig, made, "gpus in llama_server_gpus"))


def _as_before(host: Mapping[str, Any]) -> list[dict[str, str]]:
    """Cards that nobody has named, in the groups in which they serve."""
    cards = [str(gpu["uuid"]) for gpu in host["gpus"]]
    groups = {
        uuid: former["uuid"]
        for former in host["former"]
        if set(uuids_of(former["uuid"])) <= set(cards)
        for uuid in uuids_of(former["uuid"])
    }
    return [{"uuid": one} for one in dict.fromkeys(groups.get(card, card) for card in cards)]


def _rig(host: Mapping[str, Any], cards: Sequence[Cards]) -> Rig:
    return Rig(
        name=host["name"],
        cards=tuple(card for group in cards for card in group),
        ram=int(host["ram_mib"]) * MIB,
        cores=int(host["cores"]),
    )


def _plan(
    host: Mapping[str, Any],
    cards: Sequence[Cards],
    first: Sequence[Candidate],
    choices: Sequence[Sequence[Candidate]],
) -> RigPlan:
    return plan_rig(
        _rig(host, cards),
        _models(first),
        _hand(host["values"], "inventory", host),
        [_hand(gpu, f"card {gpu['uuid']}", host) for gpu in host["gpus"]],
        [_models(choice) for choice in choices],
        groups=cards,
    )


def _choice(
    gpu: Mapping[str, Any],
    first: Sequence[Candidate],
    known: Mapping[str, Candidate],
    library: Library,
) -> Sequence[Candidate]:
    """The files to choose from for one card: its own one, or those of the rig.

    One that neither model_file nor model_more brings has to lie on the rig.
    """
    if not (file := gpu.get("model_file")):
        return first
    if file in known:
        return (known[file],)
    return library.candidates({"name": "", "quantisation": "", "file": file, "src": ""})


def _models(candidates: Sequence[Candidate]) -> list[Any]:
    return [one.model for one in candidates]


def _said(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those values that are set."""
    return {name: value for name, value in values.items() if value not in (None, "")}


def _hand(values: Mapping[str, Any], where: str, host: Mapping[str, Any]) -> HandSet:
    """What is set by hand; on the cpu backend no layer can be on a card, or all are on helpers."""
    given = _said(values)
    if host["backend"] == "cpu":
        given["n_gpu_layers"] = ALL_LAYERS if host.get("helpers") else 0
    return HandSet.from_mapping(given, where)


# --- what comes of it --------------------------------------------------------------------------


def _planned(
    host: Mapping[str, Any], plan: RigPlan, choices: Sequence[Sequence[Candidate]]
) -> Deployment:
    faults = [_fault(refusal, alone=len(host["gpus"]) == 1) for refusal in plan.refusals]
    faults += plan.problems
    table = report.table([plan])
    if faults:
        return Deployment(name=host["name"], table=table, faults=tuple(faults))
    chosen = [
        next(one for one in choice if one.model == server.plan.model)
        for choice, server in zip(choices, plan.servers, strict=True)
    ]
    backends = [
        _backend(number, server, plan.load_mode, one, host)
        for number, (server, one) in enumerate(zip(plan.servers, chosen, strict=True))
    ]
    return Deployment(
        name=host["name"],
        backends=backends,
        models=_questions(chosen, host["models"]),
        table=table,
    )


def _fault(refusal: Refusal, *, alone: bool) -> str:
    uuids = [card.uuid for card in refusal.cards]
    would_fit = "; ".join(refusal.would_fit) or "nothing that is known here"
    text = f"{AND.join(uuids)}: {refusal.reason}. Would fit: {would_fit}"
    if alone and (len(uuids) > 1 or refusal.card.host):
        return text  # nothing would be left
    cards = "card" if len(uuids) == 1 else "cards"
    return f"{text}. Or leave the {cards} out: llama_server_gpus_except: [{', '.join(uuids)}]"


def _backend(
    number: int,
    server: Server,
    load_mode: str,
    chosen: Candidate,
    host: Mapping[str, Any],
) -> dict[str, Any]:
    settings = asdict(server.plan.settings)
    del settings["n_cpu_moe"]  # the planner's alone: nothing starts a llama-server with it yet
    if server.plan.settings.n_gpu_layers >= server.plan.model.all_layers:
        settings["n_gpu_layers"] = ALL_LAYERS
    cards = [
        {
            "name": card.name,
            "vram_mib": card.vram // MIB,
            "link": card.link,
            "capability": card.capability,
            **({"host": card.host} if card.host else {}),
        }
        for card in server.plan.cards
    ]
    is_alone = len(cards) == 1 and not server.plan.card.host
    group = {"cards": cards, "tensor_split": list(server.plan.tensor_split)}
    return {
        **settings,
        "n_threads": server.n_threads,
        "cache_ram_mib": server.cache_ram_mib,
        "load_mode": load_mode,
        "model_file": chosen.file,
        "model_name": _name(chosen, number, host),
        **({"card": cards[0]} if is_alone else group),
        **host["gpus"][number],
    }


def _name(chosen: Candidate, number: int, host: Mapping[str, Any]) -> str:
    """The model's name in the API: what is set, one for all backends or one for each.

    Else it is the file's. Where the planner has chosen the quantisation it is the catalogue's:
    cards with different files of one model serve that model.
    """
    names = [name.strip() for name in str(host["model_name"]).split(",")]
    of_all = names[0] if len(names) == 1 else ""
    if own := of_all or (names[number] if number < len(names) else ""):
        return own
    asked = [one for one in host["models"] if one["name"] == chosen.question["name"]]
    if chosen.question["name"] and not any(one["quantisation"] for one in asked):
        return str(chosen.question["name"]).lower()
    return chosen.file.removesuffix(".gguf")


def _questions(
    chosen: Sequence[Candidate], asked: Sequence[Mapping[str, str]]
) -> list[Mapping[str, str]]:
    """The files that the rig needs: first that which most backends serve, then the others.

    What the inventory names beside them (model_more) comes too, as it would without a plan.
    """
    served = [one for one, _ in Counter(one.file for one in chosen).most_common()]
    questions = {one.file: one.question for one in chosen}
    found = [questions[file] for file in served]
    settled = [one for one in asked[1:] if one["file"] or one["quantisation"]]
    return found + [one for one in settled if one not in found]


def _unplanned(
    host: Mapping[str, Any],
    cards: Sequence[MaybeCards],
    choices: Sequence[Sequence[Candidate]],
    unknown: Sequence[str],
    waiting: Sequence[str],
) -> Deployment:
    """What counts where the planner cannot choose: what is set, else values that are modest."""
    gpus = host["gpus"]
    # What serves already goes on as it is: it may be the hub alone that does not answer.
    former = [_former(gpu, choice, host) for gpu, choice in zip(gpus, choices, strict=True)]
    open_choices = [
        choice
        for choice, before in zip(choices, former, strict=True)
        if unknown and len(choice) > 1 and not before
    ]
    if open_choices:
        names = ", ".join(one.question["quantisation"] for one in reversed(open_choices[0]))
        raise ModelError(
            f"which file of {open_choices[0][0].question['name']} the cards can hold cannot be told"
            f" ({unknown[0]}). Set model_quantisation ({names})"
        )
    notes = []
    if unknown:
        notes.append(
            f"the planner does not know the model ({unknown[0]}): what the inventory does not set"
            f" is {_words(_UNPLANNED)}, or what serves already; watch `nvidia-smi`"
        )
    if waiting:
        notes.append(
            f"the memory of {', '.join(waiting)} is known when the driver is installed; the plan is"
            " made then"
        )
    values = _said(host["values"])
    on_cards = host["backend"] != "cpu" or bool(host.get("helpers"))
    if on_cards and host["backend"] == "cpu":
        values["n_gpu_layers"] = ALL_LAYERS
    threads = threads_for(int(host["cores"]), len(gpus), on_cards=on_cards)
    fallback = {**_UNPLANNED, "n_threads": threads, **values}
    if not on_cards:
        fallback["n_gpu_layers"] = 0
    # The smallest file will fit if any does.
    chosen = [
        next((one for one in choice if one.file == before.get("model_file")), choice[-1])
        for choice, before in zip(choices, former, strict=True)
    ]
    backends = [
        {
            **fallback,
            **_by_memory(group),
            **before,
            **values,
            "model_file": one.file,
            "model_name": _name(one, number, host),
            **gpu,
        }
        for number, (gpu, group, one, before) in enumerate(
            zip(gpus, cards, chosen, former, strict=True)
        )
    ]
    return Deployment(
        name=host["name"],
        backends=backends,
        models=_questions(chosen, host["models"]),
        notes=notes,
    )


def _by_memory(cards: MaybeCards) -> dict[str, Any]:
    """How the layers of a model that is not known are shared out: by what each card has."""
    if len(cards) == 1 and not (cards[0] and cards[0].host):
        return {}
    return {"tensor_split": [card.vram // MIB if card else 1 for card in cards]}


def _former(
    gpu: Mapping[str, Any], choice: Sequence[Candidate], host: Mapping[str, Any]
) -> Mapping[str, Any]:
    """What a card's backend serves already, if that is one of the files to choose from."""
    files = {one.file for one in choice}
    known = (one for one in host["former"] if one["uuid"] == gpu["uuid"])
    return next((one for one in known if one["model_file"] in files), {})


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
