"""Progress: lines in a log, bars on a terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import threading
import time

import pytest

from compose_rl.progress import Progress, duration


def test_durations_read_like_a_clock() -> None:
    assert [duration(s) for s in (0, 59.6, 75, 3700, -1)] == ["0:00", "1:00", "1:15", "1:01:40", "0:00"]


def test_a_log_gets_a_line_with_count_rate_and_time_left() -> None:
    stream = io.StringIO()
    progress = Progress("tokenize", stream=stream, interval=0.0)
    with progress.phase("rows", total=4, unit="rows") as phase:
        phase.started -= 2.0  # two seconds ago
        phase.advance(2, note="a.jsonl")
        phase.advance(2)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "tokenize: rows …"
    assert lines[1] == "tokenize: rows: 2/4 rows, 1/s, 0:02 left, a.jsonl"
    assert lines[-1] == "tokenize: rows: done in 0:02 (4 rows)"


def test_what_comes_again_and_again_is_told_of_only_when_it_lasts() -> None:
    stream = io.StringIO()
    progress = Progress(stream=stream, interval=60.0)
    with progress.phase("generate", total=8, unit="answers", brief=True) as phase:
        phase.advance(4)
        assert not stream.getvalue()
        phase._next = 0.0  # a minute later
        phase.advance(2)
    assert [line.split(",")[0] for line in stream.getvalue().splitlines()] == ["generate: 6/8 answers"]


def test_a_log_is_not_flooded() -> None:
    stream = io.StringIO()
    with Progress(stream=stream, interval=60.0).phase("work", total=10_000) as phase:
        for _ in range(10_000):
            phase.advance()
    assert len(stream.getvalue().splitlines()) == 2


def test_a_phase_that_fails_says_so() -> None:
    stream = io.StringIO()
    with pytest.raises(ValueError, match="x"), Progress(stream=stream).phase("work"):
        raise ValueError("x")
    assert stream.getvalue().splitlines()[-1] == "work: stopped in 0:00"


def test_phases_nest_and_threads_count_right() -> None:
    stream = io.StringIO()
    progress = Progress("x", stream=stream, interval=60.0)
    with progress.phase("outer", total=1) as outer, progress.phase("inner", unit="items") as inner:
        threads = [threading.Thread(target=lambda: [inner.advance() for _ in range(1000)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        outer.advance()
    assert inner.done == 4000
    assert stream.getvalue().splitlines()[2] == "x: inner: done in 0:00 (4,000 items)"


def test_quiet_says_nothing() -> None:
    stream = io.StringIO()
    progress = Progress("x", stream=stream, interval=0.0, quiet=True)
    with progress.phase("work", total=1) as phase:
        phase.advance()
    progress.say("news")
    assert stream.getvalue() == ""


def test_a_terminal_gets_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    received: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(ours, 4096):
                received.append(data)
        except OSError:
            pass  # the other side is closed

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(theirs, "w") as terminal:
        progress = Progress("sft", stream=terminal)
        with progress.phase("train", total=10, unit="batches") as phase:
            phase.advance(10)
            progress.show(phase)
            end = time.monotonic() + 10
            while b"10/10 batches" not in b"".join(received) and time.monotonic() < end:
                time.sleep(0.01)
            progress.say("half time")
    reader.join()
    os.close(ours)
    text = b"".join(received).decode()
    assert "━" in text and "10/10 batches" in text
    assert "sft: half time" in text
    assert re.search(r"sft: train: done in 0:0\d \(10 batches\)", text)
