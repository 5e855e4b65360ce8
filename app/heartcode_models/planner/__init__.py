"""What a rig's cards can serve: the planner behind ``scripts/plan.py`` and ``playbooks/plan.yml``.

Planning needs no more than the standard library, except reading a model over HTTP (requests). Sizes
are bytes unless a name ends in ``_mib``; a MiB is 2**20 bytes.
"""
