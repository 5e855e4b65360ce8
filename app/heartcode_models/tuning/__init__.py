"""Which settings are fastest on a card: behind ``scripts/tune.py`` and the role ``tuning``.

What may be measured is decided by the planner's budget (``planner``); what was measured decides
what is best for a turn of a chat. Needs no more than the standard library. Speeds are tokens/s.
"""
