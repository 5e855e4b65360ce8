"""Stops the first thread of a process, and no other, until this program ends.

    python hold_thread.py PID

Of llama-server that is the one that computes. SIGSTOP would stop its HTTP threads as well, which is
kinder than life: with them the pings end.
"""

import ctypes
import os
import sys

_SEIZE, _INTERRUPT = 0x4206, 0x4207  # ptrace.h
_WALL = 0x40000000  # wait.h


def main() -> None:
    """Hold it; end when it has died."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long] * 4
    held = int(sys.argv[1])
    for what in (_SEIZE, _INTERRUPT):
        if libc.ptrace(what, held, 0, 0):
            sys.exit(f"ptrace {what:#x}: errno {ctypes.get_errno()}")
    # Who dies has to be waited for by the tracer. Until then its parent does not see that it has
    # ended, and systemd lets three more TimeoutStopSec pass.
    while os.WIFSTOPPED(os.waitpid(held, _WALL)[1]):
        pass


if __name__ == "__main__":
    main()
