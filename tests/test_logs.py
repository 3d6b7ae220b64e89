"""Log lines that cannot be written."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mo_grpc.logs import Lines


class Unprintable:
    """What raises when it is shown."""

    def __str__(self) -> str:
        raise ValueError


def a_log(descriptor: int) -> Callable[[object], None]:
    """Logs a text to a file descriptor, and lets nothing be raised that pytest's own handlers would."""
    handler = Lines(descriptor)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))

    def log(text: object) -> None:
        handler.handle(logging.LogRecord("test", logging.INFO, __file__, 0, text, (), None))

    return log


def test_lost_lines_are_counted_and_told_when_the_disk_has_room_again(tmp_path: Path) -> None:
    file = tmp_path / "log"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    full = os.open("/dev/full", os.O_WRONLY)
    kept = os.dup(descriptor)
    log = a_log(descriptor)
    log("one")
    os.dup2(full, descriptor)
    for _ in range(3):
        log("lost")
    os.dup2(kept, descriptor)
    log("two")
    log(Unprintable())
    log("three")
    for each in (descriptor, full, kept):
        os.close(each)
    lines = ["INFO one", "WARNING log lines lost: 3", "INFO two", "WARNING log lines lost: 1", "INFO three"]
    assert file.read_text().splitlines() == lines


def test_a_line_that_was_cut_by_a_full_disk_spoils_no_other(tmp_path: Path) -> None:
    """A file that may not grow stands for the disk: what still fits is written, and no more."""
    import resource
    import signal

    file = tmp_path / "log"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    log = a_log(descriptor)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        log("far too long for it")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    log("next")
    os.close(descriptor)
    assert file.read_text().splitlines() == ["INFO far t", "WARNING log lines lost: 1", "INFO next"]


def test_a_reader_that_is_gone_ends_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    a_log(writer)("nobody reads this")
    os.close(writer)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.close(writer)
