from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator

import pytest
from heartcode.telemetry import log


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stdout", written)
    kept = [(each, each.level, each.propagate) for each in (log.requests, log.backends)]
    settings = [(name, getattr(logging, name)) for name in _GLOBAL]
    log.to_stdout("info")
    yield written
    for each, level, propagate in kept:
        each.handlers.clear()
        each.setLevel(level)
        each.propagate = propagate
    for name, value in settings:
        setattr(logging, name, value)


_GLOBAL = ("_srcfile", "logThreads", "logMultiprocessing")


def test_a_line_is_the_message_as_it_is(output: io.StringIO) -> None:
    log.requests.info('{"path": "/100%s"}')
    log.requests.debug("too fine")
    log.backend_event("backend", backend="one:1", up=True)
    assert output.getvalue() == (
        '{"path": "/100%s"}\n{"event": "backend", "backend": "one:1", "up": true}\n'
    )


def test_a_line_that_cannot_be_written_ends_no_request(
    output: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    output.close()
    log.requests.info("a line")
    assert "I/O operation on closed file" in capsys.readouterr().err
