"""gunicorn's configuration: `cd app && python -m heartcode.master`.

Everything that a person can set comes from `heartcode.settings`.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import Any

from heartcode.server.worker import LAST_WORDS_S
from heartcode.settings import EXIT_BAD_SETTINGS, Settings, SettingsError
from heartcode.telemetry import metrics_files

try:
    _settings = Settings.from_env(os.environ)
except SettingsError as error:
    print(error, file=sys.stderr)
    sys.exit(EXIT_BAD_SETTINGS)

wsgi_app = "heartcode.server.wsgi:application"
_host = f"[{_settings.listen}]" if ":" in _settings.listen else _settings.listen
# Where no socket was handed over; heartcode.socket does that on a rig.
bind = f"{_host}:{_settings.port}"
backlog = 2048

# One process: it sees all requests of the rig and so knows how busy each backend is.
workers = 1
worker_class = "heartcode.server.worker.Worker"
worker_connections = _settings.max_connections

# How long the event loop may stand still, not how long a request may take.
timeout = 60
graceful_timeout = _settings.graceful_timeout_s + LAST_WORDS_S
# An idle connection holds up a stop for this long. A gateway that keeps connections open has to
# close them earlier, so that it never sends a request into one that is being closed here.
keepalive = 5

limit_request_line = _settings.max_request_line_bytes
limit_request_fields = _settings.max_headers
limit_request_field_size = _settings.max_header_bytes

# Nothing here depends on what a gateway says of its client, so nobody needs to be trusted: with "*"
# no request's address is looked up, and the headers that would be believed are none.
forwarded_allow_ips = "*"
secure_scheme_headers: dict[str, str] = {}
forwarder_headers = ""

# The proxy writes its own line for each request.
accesslog = None
errorlog = "-"
loglevel = _settings.log_level

# The worker's heartbeat file: on a disk, a slow write could look like a worker that hangs.
worker_tmp_dir = "/dev/shm"  # noqa: S108 - gunicorn makes the file with mkstemp and unlinks it
# Would be made in a home directory that the service has not got.
control_socket_disable = True


def on_starting(server: Any) -> None:
    """Begin with no request active but those of inherited workers, however the last proxy ended."""
    seats = {worker.metrics_seat for worker in server.WORKERS.values()}
    metrics_files.prepare(_settings.metrics_dir, keep=seats)


def pre_fork(server: Any, worker: Any) -> None:
    """Give the worker a seat that no other has; runs before it is one of WORKERS."""
    worker.grace_s = _settings.graceful_timeout_s
    worker.request_timeout_s = _settings.request_timeout_s
    taken = {other.metrics_seat for other in server.WORKERS.values()}
    worker.metrics_seat = metrics_files.free_seat(taken)


def post_fork(_server: Any, worker: Any) -> None:
    """Settle where the worker's metrics go, before it imports the application."""
    metrics_files.use(_settings.metrics_dir, seat=worker.metrics_seat)


def post_worker_init(worker: Any) -> None:
    """Begin to monitor the backends, now that this process will not fork."""
    # gunicorn asks for two dozen settings for each request; as attributes they need no search.
    settings = worker.cfg.settings.items()
    vars(worker.cfg).update((name, setting.get()) for name, setting in settings)
    # Spare the garbage collector what is loaded for good: it would look at it often.
    gc.collect()
    gc.freeze()
    worker.wsgi.extensions["heartcode"].start()


def worker_exit(_server: Any, worker: Any) -> None:
    """Monitor them no more; a worker that could not start has no application."""
    application = getattr(worker, "wsgi", None)
    if application is not None:
        application.extensions["heartcode"].stop()


def child_exit(_server: Any, worker: Any) -> None:
    """Count the requests of a worker that has ended, killed or not, as no longer active."""
    metrics_files.leave(_settings.metrics_dir, seat=worker.metrics_seat)
