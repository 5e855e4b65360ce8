"""How far a download is: a bar on a terminal, a line now and then elsewhere."""

import sys
from typing import Any, Protocol, TextIO

from heartcode_models.units import gigabytes

_STEP_PERCENT = 10


class Progress(Protocol):
    """Is told how many bytes are there."""

    def begin(self, label: str, total: int, done: int) -> None:
        """A file of `total` bytes, `done` of which are there."""

    def update(self, done: int) -> None:
        """So many are there now; fewer than before when it starts from zero."""

    def say(self, text: str) -> None:
        """Something that the person should read."""

    def end(self) -> None:
        """No more is coming."""


class Bar:
    """tqdm's bar, with speed and time left."""

    def __init__(self, stream: TextIO) -> None:
        from tqdm import tqdm  # noqa: PLC0415 (hosts do not have it, and have no terminal)

        self._tqdm = tqdm
        self._stream = stream
        self._bar: Any = None

    def begin(self, label: str, total: int, done: int) -> None:
        """Draw it."""
        self._bar = self._tqdm(
            desc=label, total=total, initial=done, unit="B", unit_scale=True, file=self._stream
        )

    def update(self, done: int) -> None:
        """Move it."""
        if done < self._bar.n:
            self._bar.reset()
        self._bar.update(done - self._bar.n)

    def say(self, text: str) -> None:
        """Write above it."""
        self._tqdm.write(text, file=self._stream)

    def end(self) -> None:
        """Leave it as it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Lines:
    """A line for every tenth."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._label, self._total, self._said = "", 0, 0

    def begin(self, label: str, total: int, done: int) -> None:
        """Say how large it is."""
        self._label, self._total = label, total
        self._said = self._tenths(done)
        there = f", {gigabytes(done)} are there" if done else ""
        self.say(f"{label}: {gigabytes(total)}{there}")

    def update(self, done: int) -> None:
        """Say each tenth once."""
        tenths = self._tenths(done)
        if tenths > self._said:
            self.say(f"{self._label}: {tenths * _STEP_PERCENT} %")
        self._said = tenths

    def say(self, text: str) -> None:
        """Write a line."""
        print(text, file=self._stream, flush=True)

    def end(self) -> None:
        """Nothing is left to say."""

    def _tenths(self, done: int) -> int:
        return done * 100 // (self._total * _STEP_PERCENT) if self._total else 0


def for_stream(stream: TextIO = sys.stderr) -> Progress:
    """A bar on a terminal, else lines."""
    return Bar(stream) if stream.isatty() else Lines(stream)
