"""Reads the cards for the exporter: `python -m heartcode.exporter.gpu_reader [options] UUID...`.

Prints a line of JSON for each reading (`GpuCollector.take` says which there are), until its
standard input ends. Each card is read by a process of its own, forked before NVML is loaded: a call
that hangs in the driver holds up nothing but its card, and not even the kill of that process is
waited for. A card that is gone is looked for again with a fresh NVML, which is what finds one that
came back.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pynvml

from heartcode.exporter.nvml_fields import read

Say = Callable[[dict[str, Any]], None]

#: How many intervals a card that is gone is left alone.
_PAUSE_INTERVALS = 3
#: How often a process that is ending is looked at.
_BURIAL_S = 0.05
_MILLISECONDS = 1000


class GoneError(Exception):
    """The card cannot be read; `reason` is one of readings.GPU_READ_ERROR_REASONS."""

    def __init__(self, reason: str, why: object) -> None:
        super().__init__(str(why))
        self.reason = reason


# --- One card, in its own process -----------------------------------------------------------------


def read_card(uuid: str, interval_s: float, say: Say) -> None:
    """Read one card again and again, and tell its Xids as they come, until it is gone."""
    try:
        card = _find(uuid)
        xids = _Xids(card, say)
        while True:
            due = time.monotonic() + interval_s
            try:
                reading = read(card)
            except pynvml.NVMLError as error:
                xids.tell_until(time.monotonic())  # the one that says why, if it came
                raise GoneError(_reason(error), error) from None
            say({"read": vars(reading)})
            xids.tell_until(due)
    except GoneError as error:
        say({"gone": error.reason, "why": str(error)})


def _reason(error: pynvml.NVMLError) -> str:
    return "lost" if isinstance(error, pynvml.NVMLError_GpuIsLost) else "driver"


def _find(uuid: str) -> Any:
    """Return NVML's handle of a card.

    Raises:
        GoneError: there is no driver, or it does not have the card.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise GoneError("driver", error) from None
    try:
        return pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except pynvml.NVMLError_GpuIsLost as error:
        # Its documentation: so it answers when *any* card is lost. The others are found one by one.
        found = next(_cards_called(uuid), None)
        if found is None:
            raise GoneError("lost", error) from None
        return found
    except pynvml.NVMLError_NotFound as error:
        raise GoneError("missing", error) from None
    except pynvml.NVMLError as error:
        raise GoneError("driver", error) from None


def _cards_called(uuid: str) -> Iterator[Any]:
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            card = pynvml.nvmlDeviceGetHandleByIndex(index)
            name = pynvml.nvmlDeviceGetUUID(card)
        except pynvml.NVMLError:
            continue
        if name == uuid:
            yield card


class _Xids:
    """Waits for the card's Xid events; where there are none to be had, only waits."""

    def __init__(self, card: Any, say: Say) -> None:
        self._say = say
        self._events: Any = None
        try:
            events = pynvml.nvmlEventSetCreate()
            pynvml.nvmlDeviceRegisterEvents(card, pynvml.nvmlEventTypeXidCriticalError, events)
        except pynvml.NVMLError as error:
            say({"note": f"Xids are not reported: {error}"})
        else:
            self._events = events

    def tell_until(self, end: float) -> None:
        """Tell those that come until `end` (time.monotonic); those that have come, at least."""
        while self._events is not None:
            left = max(0.0, end - time.monotonic())
            try:
                event = pynvml.nvmlEventSetWait_v2(self._events, round(left * _MILLISECONDS))
            except pynvml.NVMLError_Timeout:
                return
            except pynvml.NVMLError:
                break  # the next reading says what is wrong
            self._say({"xid": int(event.eventData)})
        time.sleep(max(0.0, end - time.monotonic()))


# --- All cards ------------------------------------------------------------------------------------


class _CardProcess:
    """The process that reads one card: forked, watched, given up, forked again."""

    def __init__(self, uuid: str, interval_s: float, timeout_s: float) -> None:
        self.uuid = uuid
        self._interval_s, self._timeout_s = interval_s, timeout_s
        self._pid = 0
        self._rest = b""
        self._explained = False
        self._ended = 0.0
        #: When something is due (time.monotonic): its next start, its being given up or buried.
        self.due = 0.0
        self.pipe = -1

    @property
    def is_ending(self) -> bool:
        """Whether its process has closed its pipe and may not have died yet."""
        return bool(self._pid) and not self.runs

    @property
    def runs(self) -> bool:
        """Whether there is a process, even one that was killed and has not died yet."""
        return self.pipe >= 0

    def start(self) -> None:
        """Fork."""
        self.pipe, theirs = os.pipe()
        self._rest, self._explained = b"", False
        self._pid = os.fork()
        if not self._pid:
            _be_card(self.uuid, self._interval_s, theirs)
        os.close(theirs)
        self._heard()

    def give_up(self) -> None:
        """Say that it hangs and kill it; in a call that never returns it does not even die."""
        self.due = float("inf")
        os.kill(self._pid, signal.SIGKILL)
        if not self._explained:
            self._explain("hang", f"the driver has not answered for {self._timeout_s:g} s")

    def listen(self) -> bool:
        """Pass on what it says; False when it has ended."""
        said = os.read(self.pipe, 65536)
        if not said:
            os.close(self.pipe)
            self.pipe = -1
            self._ended = time.monotonic()
            self.bury()
            return False
        *lines, self._rest = (self._rest + said).split(b"\n")
        for line in lines:
            told = json.loads(line)
            self._explained = "gone" in told
            _print({"uuid": self.uuid, **told})
        # One that was given up and goes on all the same has been killed.
        if self.due < float("inf"):
            self._heard()
        return True

    def bury(self) -> None:
        """Find out whether it is dead, without waiting for it.

        Its pipe is closed before the driver's device file, and closing that may take for ever.
        Until then no other process is started, which would only hang as well.
        """
        now = time.monotonic()
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if pid:
            self._pid = 0
            if not self._explained:
                self._explain("died", f"its reader ended with status {status}")
            self.due = now + _PAUSE_INTERVALS * self._interval_s
        elif now < self._ended + self._timeout_s:
            self.due = now + _BURIAL_S
        else:
            if not self._explained:
                self._explain("hang", "the driver does not let go of its reader")
            self.due = now + self._interval_s

    def _heard(self) -> None:
        self.due = time.monotonic() + self._interval_s + self._timeout_s

    def _explain(self, reason: str, why: str) -> None:
        self._explained = True
        _print({"uuid": self.uuid, "gone": reason, "why": why})


def _be_card(uuid: str, interval_s: float, pipe: int) -> None:
    """Read the card in a process that has just been forked, and end it."""
    status = 1
    try:
        _close_all_but(pipe)

        def say(told: dict[str, Any]) -> None:
            os.write(pipe, json.dumps(told).encode() + b"\n")

        read_card(uuid, interval_s, say)
        status = 0
    except BrokenPipeError:
        pass  # nobody listens any more
    finally:
        # Whatever it was: this is no place to go on with what the parent was doing.
        sys.stderr.flush()
        os._exit(status)


def _close_all_but(pipe: int) -> None:
    """Let go of what others would otherwise wait for as long as this process hangs."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1):
        os.dup2(nothing, standard)
    highest = os.sysconf("SC_OPEN_MAX")
    os.closerange(3, pipe)
    os.closerange(pipe + 1, highest)


def _print(told: dict[str, Any]) -> None:
    print(json.dumps(told), flush=True)


def run(uuids: Sequence[str], interval_s: float, timeout_s: float) -> None:
    """Read all cards until the standard input ends."""
    gc.freeze()  # what is forked shares this memory, as long as nothing writes to it
    cards = [_CardProcess(uuid, interval_s, timeout_s) for uuid in uuids]
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        while True:
            for card in cards:
                if card.due > time.monotonic():
                    continue
                if card.runs:
                    card.give_up()
                elif card.is_ending:
                    card.bury()
                else:
                    card.start()
                    selector.register(card.pipe, selectors.EVENT_READ, card)
            next_due = min((card.due for card in cards), default=float("inf"))
            wait_s = max(0.0, next_due - time.monotonic()) if next_due < float("inf") else None
            for key, _ in selector.select(wait_s):
                if key.data is None:
                    return
                pipe = key.data.pipe
                if not key.data.listen():
                    selector.unregister(pipe)


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="heartcode.exporter.gpu_reader", description=__doc__)
    parser.add_argument("uuids", metavar="UUID", nargs="+")
    parser.add_argument("--interval", type=float, default=5, help="seconds between two readings")
    parser.add_argument("--timeout", type=float, default=15, help="seconds to wait for the driver")
    arguments = parser.parse_args(argv)
    # The exporter blocks its signals before it starts this program, which would inherit that.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    with contextlib.suppress(BrokenPipeError):  # the exporter is gone
        run(arguments.uuids, arguments.interval, arguments.timeout)
    sys.stderr.flush()
    # The processes of the cards end with their pipes; in the driver they cannot be waited for.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
