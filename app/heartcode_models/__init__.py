"""Models before they serve: which there are, how they arrive, what a card holds and how it is set.

Commands of ``scripts/`` and roles run it on the control node; of ``gguf``, ``catalogue`` and
``files`` hosts get a packed copy (``files.pack``). Each part imports from
those above it alone, which a contract test holds:

- ``errors``, ``units``, ``cache``: what all of them share.
- ``gguf``: what a model's file tells.
- ``catalogue``: which models there are, and what each file must be.
- ``files``: how a file arrives whole or not at all.
- ``planner``: what a rig's cards can serve.
- ``tuning``: which settings are fastest on a card.
- ``demo``: the model that counts, for tests and for trying a new llama-server out.
- ``cli``: the commands that people and roles type.
"""
