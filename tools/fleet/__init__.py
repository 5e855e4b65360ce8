"""The virtual fleet: systemd-nspawn machines that stand in for the hosts of a real inventory.

Standard library only: it runs before any virtual environment exists. One module, one subject:

- ``cli``: the commands of ``scripts/fleet.py``.
- ``model``: what a fleet is, and its ``fleet.json``.
- ``image``: base root file systems, built once and cached.
- ``roots``: a machine's own root: copy, identity, network settings.
- ``access``: keys, ``ssh_config``, ``known_hosts``, the host's extra certificates.
- ``network``: subnet, bridge, address translation, pulled cables.
- ``supervisor``: the process that keeps one machine, and how commands talk to it.
- ``aptcache``: downloaded packages, kept for the next fleet.
- ``cleanup``: ends a fleet, also a half-made, crashed or lost one.
- ``system``: running programs, processes, locks, files.
"""
