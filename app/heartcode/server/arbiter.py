"""The proxy's master process: `cd app && python -m heartcode.master`.

It is gunicorn's arbiter with another way to reload. At SIGHUP it becomes the program and the
environment that `heartcode.reload` has ordered, by an exec: the process, its listening socket and
its workers stay (ADR 9). When the new worker serves, the one before retires: it accepts nothing
more and ends with its last stream.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from gunicorn import sock, systemd
from gunicorn.app.wsgiapp import WSGIApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from heartcode.server import reload_files
from heartcode.server.hot_restart import WorkerLike, inherit, pass_on
from heartcode.server.reload_files import Order, State
from heartcode.server.worker import LAST_WORDS_S, RETIRE, is_closed, is_serving
from heartcode.settings import Settings

# What systemd tells each process of its own; it holds on across an exec.
_OF_THIS_PROCESS = (
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "MAINPID",
    "NOTIFY_SOCKET",
    "SYSTEMD_EXEC_PID",
)


class Program(WSGIApplication):  # type: ignore[misc] # gunicorn has no types
    """The proxy as gunicorn sees it; takes gunicorn.conf.py of the working directory."""

    def run(self) -> NoReturn:
        """Serve until SIGTERM."""
        Master(self).run()
        raise AssertionError("gunicorn's main loop ends with an exit")


class Master(Arbiter):  # type: ignore[misc]
    """Keeps one worker that accepts connections; those that have retired run beside it."""

    def __init__(self, program: Program) -> None:
        # Before gunicorn makes a copy of the environment.
        inherited = inherit(os.environ)
        super().__init__(program)
        self._settings = Settings.from_env(os.environ)
        self._inherited = inherited
        self._order = inherited.order
        self._reload_wanted = False
        # The worker that shall serve; none of those that were inherited.
        self._newest = 0
        self._successor_wanted = bool(inherited.workers)
        self._status: str | None = None

    def start(self) -> None:
        """Begin, or go on where the program before left off."""
        # gunicorn has these on the class.
        self.WORKERS = {worker.pid: worker for worker in self._inherited.workers}
        self.worker_age = max((worker.age for worker in self._inherited.workers), default=0)
        if self._inherited.listeners:
            self.LISTENERS = sock.create_sockets(self.cfg, self.log, self._inherited.listeners)
        else:
            self._settings.run_dir.mkdir(parents=True, exist_ok=True)
            reload_files.report(self._settings.run_dir, State(master=os.getpid()))
        super().start()
        self._warn_of_another_port()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _queued_signals())
        # A child may have ended while nobody listened.
        self.SIG_QUEUE.put(signal.SIGCHLD)

    def _warn_of_another_port(self) -> None:
        ports = {listener.getsockname()[1] for listener in self.LISTENERS}
        if self._settings.port not in ports:
            self.log.warning(
                "PORT is %s, but the socket that was handed over listens on %s: another port takes"
                " a restart of the socket",
                self._settings.port,
                ", ".join(map(str, ports)),
            )

    def handle_hup(self) -> None:
        """SIGHUP: reload, when the signals that came with it have been seen to."""
        self._reload_wanted = True

    def handle_usr2(self) -> None:
        """SIGUSR2: a worker has begun or ceased to accept. `manage_workers` comes next."""

    def manage_workers(self) -> None:
        """Let one worker accept connections: the newest that can."""
        if self._reload_wanted:
            self._reload()
        active = [worker for worker in self.WORKERS.values() if not worker.retired]
        if self._successor_wanted or not active:
            self._successor_wanted = False
            self._newest = self.spawn_worker()
            return
        newest = self.WORKERS.get(self._newest)
        if newest is None:
            self._finish("the new worker ended before it served; the one before goes on")
        elif is_serving(newest):
            # One that is still starting would not understand.
            for worker in filter(is_serving, active):
                if worker is not newest:
                    self._retire(worker)
            # From then on nobody meets the former code and settings.
            if all(is_closed(w) for w in self.WORKERS.values() if w is not newest):
                self._finish()
        self._tell_systemd()

    def _retire(self, worker: WorkerLike) -> None:
        worker.retired = True
        self.log.info("Worker %s ends with its last request", worker.pid)
        self.kill_worker(worker.pid, RETIRE)

    def reap_workers(self) -> None:
        """Forget the workers that have ended; one that cannot start ends all, if it is the only."""
        try:
            super().reap_workers()
        except HaltServer:
            if not any(not worker.retired for worker in self.WORKERS.values()):
                raise

    def stop(self, graceful: bool = True) -> None:  # noqa: FBT001, FBT002 - gunicorn's own
        """End all workers; each has the time that its own settings have given it."""
        longest = max((worker.grace_s for worker in self.WORKERS.values()), default=0)
        self.cfg.set("graceful_timeout", longest + LAST_WORDS_S)
        super().stop(graceful)

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        """End."""
        try:
            super().halt(reason=reason, exit_status=exit_status)
        finally:
            reload_files.forget(self._settings.run_dir)

    def _finish(self, error: str = "") -> None:
        """Tell who has ordered the reload, once, how it went."""
        if not self._order:
            return
        if error:
            self.log.error("The reload failed: %s", error)
        state = State(master=os.getpid(), order=self._order, error=error)
        reload_files.report(self._settings.run_dir, state)
        self._order = ""

    def _tell_systemd(self) -> None:
        retired = sum(worker.retired for worker in self.WORKERS.values())
        status = "Serving"
        if retired:
            status += f"; {retired} from before a reload finish what they have begun"
        if status != self._status:
            self._status = status
            systemd.sd_notify(f"STATUS={status}", self.log)

    def _reload(self) -> None:
        """Become the program that was ordered; without an order this one, begun anew."""
        # No signal may come between the last look at the queue and the next program's handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, _queued_signals())
        try:
            if not self.SIG_QUEUE.empty():
                return  # it is seen to first; then the loop comes here again
            self._reload_wanted = False
            order = reload_files.take(self._settings.run_dir) or _same_again()
            self._order = order.id
            self._become(order)
        except (OSError, ValueError) as error:
            self._finish(f"{error}; the proxy goes on as it is")
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _queued_signals())

    def _become(self, order: Order) -> NoReturn:
        """Replace this program.

        Raises:
            OSError: that cannot be done, and nothing has changed.
        """
        own = {name: value for name in _OF_THIS_PROCESS if (value := os.environ.get(name))}
        given = {k: v for k, v in order.environment.items() if k not in _OF_THIS_PROCESS}
        left = pass_on(self.LISTENERS, self._workers(), order=order.id)
        before = Path.cwd()
        os.chdir(order.directory)
        try:
            os.execve(order.command[0], order.command, {**given, **own, **left})  # noqa: S606
        finally:
            os.chdir(before)

    def _workers(self) -> list[WorkerLike]:
        return list(self.WORKERS.values())


def _queued_signals() -> set[Any]:
    return {*Master.SIGNALS, signal.SIGCHLD}


def _same_again() -> Order:
    return Order(
        id="",
        command=command(),
        directory=str(Path.cwd()),
        environment=dict(os.environ),
    )


def command() -> list[str]:
    """Return how this version's master is started.

    With its own path, not that of `current`, which moves while the process runs: what is imported
    later has to come from the version that began.
    """
    python = Path(sys.prefix).resolve() / "bin" / Path(sys.executable).name
    return [str(python), "-m", "heartcode.master"]


def main() -> None:
    """Serve until SIGTERM."""
    if sys.executable != command()[0]:
        os.execv(command()[0], command())  # noqa: S606 - there is no shell on purpose
    Program().run()
