"""How all property tests draw their examples."""

from hypothesis import HealthCheck, settings

# Each run draws others, and a failure prints what draws its example again. How long one takes says
# something of the machine alone, so nothing is measured.
settings.register_profile(
    "heartcode",
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("heartcode")
