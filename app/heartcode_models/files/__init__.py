"""Downloads that end with the right file or with none.

``scripts/download_model.sh`` and the roles ``model`` and ``model_mirror`` (``role``) use the same
code; hosts get it as one file (``pack``). There it needs Debian's python3 and python3-requests, so
nothing here imports more. Sizes are bytes.
"""
