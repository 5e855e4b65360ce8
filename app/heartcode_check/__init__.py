"""What works at an address, check by check: ``scripts/health_check.sh``.

It runs on bare rigs and at people's desks: nothing but the standard library, of Python 3.9 and
later.
"""
