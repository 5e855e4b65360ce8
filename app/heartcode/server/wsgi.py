"""Where gunicorn finds the proxy: `heartcode.server.wsgi:application`."""

from __future__ import annotations

import gc
import os

from heartcode.api.app import create_app
from heartcode.gateway.app import Application
from heartcode.settings import Settings
from heartcode.telemetry import log

_settings = Settings.from_env(os.environ)
log.to_stdout(_settings.log_level)
# The backends of a gateway are rigs, and it has an address for each of them.
application = Application(_settings) if _settings.rig_addresses else create_app(_settings)

# What is there now stays to the end, and a request leaves little garbage that only the collector
# finds. With Python's own threshold it looked through all streams in the middle of every request.
gc.collect()
gc.freeze()
gc.set_threshold(50_000)
