"""Where gunicorn finds the proxy: `heartcode.wsgi:application`."""

from __future__ import annotations

import os

from heartcode.application import create_app
from heartcode.observe import log_to_stdout
from heartcode.settings import Settings

_settings = Settings.from_env(os.environ)
log_to_stdout(_settings.log_level)
application = create_app(_settings)
