from __future__ import annotations

import os
import socket
from pathlib import Path

from heartcode.server.hot_restart import Heartbeat, InheritedWorker, inherit, pass_on


def test_descriptors_and_workers_are_inherited_by_the_same_process_alone(tmp_path: Path) -> None:
    with (tmp_path / "beat").open("w") as beat, socket.socket() as listener:
        worker = InheritedWorker(
            pid=7, age=3, metrics_seat=1, grace_s=30, retired=True, tmp=Heartbeat(beat.fileno())
        )
        environment = pass_on([listener], [worker], order="1")
        assert os.get_inheritable(listener.fileno())
        assert os.get_inheritable(beat.fileno())

        inherited = inherit(environment)
        assert environment == {}
        assert inherited.listeners == (listener.fileno(),)
        assert inherited.order == "1"
        (again,) = inherited.workers
        assert (again.pid, again.age, again.metrics_seat) == (7, 3, 1)
        assert (again.grace_s, again.retired, again.aborted) == (30, True, False)
        os.utime(beat.fileno(), (12.0, 12.0))
        assert again.tmp.last_update() == 12

        child = pass_on([listener], [worker], order="1")
        (name,) = child
        foreign = {name: child[name].replace(f'"master": {os.getpid()}', '"master": 1')}
        assert inherit(foreign).workers == ()
    assert inherit({}).listeners == ()
