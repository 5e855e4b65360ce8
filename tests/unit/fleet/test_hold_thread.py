"""The program that holds a thread, on this machine."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import hold_thread

#: Two threads, which anybody may trace (PR_SET_PTRACER, PR_SET_PTRACER_ANY, linux/prctl.h); each
#: says what it is asked for.
_TALKER = """
import ctypes, os, threading
ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1))
def echo(read, write):
    while word := os.read(read, 1):
        os.write(write, word)
threading.Thread(target=echo, args=(0, 1), daemon=True).start()
os.write(1, b"!")
threading.Event().wait()
"""


@pytest.fixture
def talker() -> Iterator[subprocess.Popen[bytes]]:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", _TALKER], stdin=pipe, stdout=pipe) as process:
        try:
            assert said(process) == b"!"
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.raw.read(1)  # type: ignore[attr-defined, no-any-return]


def test_one_thread_stands_still_and_a_death_is_seen(talker: subprocess.Popen[bytes]) -> None:
    with subprocess.Popen([sys.executable, hold_thread.__file__, str(talker.pid)]) as holder:
        status = Path(f"/proc/{talker.pid}/task/{talker.pid}/status")
        while "\nState:\tt" not in status.read_text():
            assert holder.poll() is None
        assert talker.stdin is not None
        talker.stdin.write(b"x")
        talker.stdin.flush()
        assert said(talker) == b"x"
        talker.kill()
        # It would never be, if its tracer did not wait for it as well.
        assert talker.wait(60) == -9
        assert holder.wait(60) == 0
