"""Filters for `gateway_upstreams`: what the inventory says of the rigs, and what is wrong with it.

rigs | gateway_rigs(model_files, tuned_directory)   each rig's address, speed and models
gateway_upstreams | gateway_upstream_faults         a list of sentences, empty if all is well
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleFilterError

# It stands in URLs, labels and logs; after the first character as catalogues and people write them.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:/@+-]*")


def rigs(
    hosts: Iterable[Mapping[str, Any]], model_files: Mapping[str, str], tuned_directory: str
) -> list[dict[str, Any]]:
    """Return `name`, `address` with port, `speed` and `models` of each rig.

    A model is that of one card: `names`, `slots` and `tokens_per_second`, 0 where nothing was
    measured.

    Args:
        hosts: Mappings with name, url_host, app_port, gateway_rig_speed, llama_server_slots,
            llama_server_gpus, llama_server_model_name and llama_server_tuned_file, which may be
            None.
        model_files: The name of the file that a card serves by default, by rig.
        tuned_directory: Where playbooks/tune.yml leaves its files, each named after its rig.

    Raises:
        AnsibleFilterError: the cards of a rig or a file of speeds cannot be used; the message says
            what to do.
    """
    found = []
    for host in hosts:
        tuned = host["llama_server_tuned_file"]
        speeds = _speeds(Path(f"{tuned_directory}/{host['name']}.yml" if tuned is None else tuned))
        found.append(
            {
                "name": host["name"],
                "address": f"{host['url_host']}:{host['app_port']}",
                "speed": host["gateway_rig_speed"],
                "models": _models(host, model_files[host["name"]], speeds),
            }
        )
    return found


def _models(host: Mapping[str, Any], file: str, speeds: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each card serves.

    Names are found as the role llama_server finds them and read as the proxy reads HEARTCODE_MODEL:
    one model for all cards or one for each, separated by commas, further names of a model after
    "|".
    """
    of_cards = str(host["llama_server_model_name"] or "").split(",")
    found = []
    for number, card in enumerate(host["llama_server_gpus"]):
        if not isinstance(card, Mapping):
            raise AnsibleFilterError(
                f"llama_server_gpus of {host['name']} has {card!r}; write each card as"
                " `uuid: GPU-...`, as playbooks/plan.yml prints it with -e plan_inventory=true."
            )
        of_card = of_cards[number] if number < len(of_cards) else ""
        of_all = of_cards[0] if len(of_cards) == 1 else of_card
        of_file = str(card.get("model_file", file)).removesuffix(".gguf")
        own = str(card.get("model_name", of_all or of_file))
        found.append(
            {
                "names": [name.strip() for name in own.split("|")],
                "slots": card.get("slots", host["llama_server_slots"]),
                "tokens_per_second": speeds.get(card.get("uuid", ""), 0),
            }
        )
    return found


def _speeds(tuned: Path) -> dict[str, float]:
    """Tokens per second of each card, by UUID, as playbooks/tune.yml has measured them."""
    if not tuned.is_file():
        return {}
    try:
        told = yaml.safe_load(tuned.read_text(encoding="utf-8")) or {}
        return {
            uuid: ((card or {}).get("speeds") or {}).get("decode", 0)
            for uuid, card in (told.get("cards") or {}).items()
        }
    except (AttributeError, OSError, ValueError, yaml.YAMLError) as error:
        raise AnsibleFilterError(
            f"{tuned} is not as playbooks/tune.yml writes it; remove it, or run that playbook again"
            f" ({error})."
        ) from error


def faults(upstreams: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which rigs and models cannot be routed to, and how to mend it."""
    found = []
    silent = [str(rig["address"]) for rig in upstreams if not rig.get("models")]
    # Cards that serve the same have the same names.
    models = dict.fromkeys(
        tuple(map(str, served["names"])) for rig in upstreams for served in rig.get("models") or ()
    )
    names = [name for model in models for name in model]
    wrong = [name for name in names if not _NAME.fullmatch(name)]
    if silent or wrong:
        found.append(
            f"{', '.join(silent) or 'A rig'} serves no model or one with a name that cannot be used"
            f" ({', '.join(wrong)}). Set llama_server_gpus and llama_server_model_name (letters,"
            " digits, spaces and ._:/@+-) in the inventory."
        )
    # Rigs with the same model have to agree on its names, or a request would depend on the rig
    # that it meets.
    if len(names) != len(set(names)):
        found.append(
            f"A name is given to two models: {', '.join(sorted(names))}. Give each a name of its"
            " own in llama_server_model_name, and the same names in the same order on all rigs that"
            " serve it."
        )
    return found


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {"gateway_rigs": rigs, "gateway_upstream_faults": faults}
