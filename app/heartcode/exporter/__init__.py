"""The other process of a rig, `python -m heartcode.exporter`: what it reads for Prometheus."""
