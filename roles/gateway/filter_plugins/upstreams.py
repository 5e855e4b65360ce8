"""Filters for `gateway_upstreams`: what the inventory says of the rigs, and what is wrong with it.

rigs | gateway_memory(remembered)                   what they serve, to be remembered by the gateway
rigs | gateway_rigs(served, tuned_directory)        each rig's address, speed and models
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
    hosts: Iterable[Mapping[str, Any]],
    served: Mapping[str, Sequence[Mapping[str, Any]]],
    tuned_directory: str,
) -> list[dict[str, Any]]:
    """Return `name`, `address` with port, `speed` and `models` of each rig.

    A model is that of one card: `names`, `slots` and `tokens_per_second`, 0 where nothing was
    measured. Further names of a model stand after "|", as the proxy reads HEARTCODE_MODEL.

    Args:
        hosts: Mappings with name, url_host, app_port, gateway_rig_speed and
            llama_server_tuned_file, which may be None.
        served: What each of them serves, as `memory` returns it.
        tuned_directory: Where playbooks/tune.yml leaves its files, each named after its rig.

    Raises:
        AnsibleFilterError: a file of speeds cannot be used; the message says what to do.
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
                "models": [
                    {
                        "names": [name.strip() for name in str(backend["model_name"]).split("|")],
                        "slots": backend["slots"],
                        "tokens_per_second": speeds.get(backend["uuid"], 0),
                    }
                    for backend in served[host["name"]]
                ],
            }
        )
    return found


def memory(
    hosts: Iterable[Mapping[str, Any]], remembered: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, list[dict[str, Any]]]:
    """Return of each rig's backends what `rigs` reads, by rig; of a silent one what was known.

    Args:
        hosts: Mappings with name and rig_backends, empty where the rig was not asked or is silent.
        remembered: What the rigs served when this gateway was deployed last, by rig.
    """
    return {
        host["name"]: [
            {name: backend[name] for name in ("uuid", "model_name", "slots")}
            for backend in host["rig_backends"] or remembered.get(host["name"], ())
        ]
        for host in hosts
    }


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
    silent = [str(rig.get("name", rig["address"])) for rig in upstreams if not rig.get("models")]
    # Cards that serve the same have the same names.
    models = dict.fromkeys(
        tuple(map(str, served["names"])) for rig in upstreams for served in rig.get("models") or ()
    )
    names = [name for model in models for name in model]
    wrong = [name for name in names if not _NAME.fullmatch(name)]
    if silent:
        found.append(
            f"What {', '.join(silent)} serves is not known here: no deployment has told it, and"
            " nobody there answers. Run playbooks/site.yml when it does, or take it out of the"
            " inventory; in gateway_upstreams each rig has its models."
        )
    if wrong:
        found.append(
            f"A model has a name that cannot be used ({', '.join(wrong)}). Set"
            " llama_server_model_name (letters, digits, spaces and ._:/@+-) in the inventory."
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
        return {
            "gateway_rigs": rigs,
            "gateway_memory": memory,
            "gateway_upstream_faults": faults,
        }
