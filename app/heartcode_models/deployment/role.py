"""What the role ``rig`` runs on the control node: ``scripts/backends.py``.

A list of rigs comes as JSON on standard input, and what their backends serve goes out by their
names. A rig that cannot be deployed is an answer too: its faults say why.
"""

import json
import sys
from dataclasses import asdict

from heartcode_models.deployment.rig_backends import deploy


def main() -> int:
    """Answer; gives the exit code."""
    answers = [deploy(host) for host in json.load(sys.stdin)]
    print(json.dumps({answer.name: asdict(answer) for answer in answers}))
    return 0
