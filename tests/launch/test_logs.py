from __future__ import annotations

from compose_rl.launch.kubernetes.logs import Seam

LINES = [
    "2026-11-24T18:00:01.100000001Z one",
    "2026-11-24T18:00:02.100000001Z two",
    "2026-11-24T18:00:02.100000001Z two",  # twice, at the same moment
    "2026-11-24T18:00:02.100000001Z three",
    "2026-11-24T18:00:01.900000000Z to stderr, a little earlier",
    "2026-11-24T18:00:05.5Z  four ",
]


def read(seam: Seam, lines: list[str]) -> list[str]:
    seam.connected()
    return [text for text in map(seam.text, lines) if text is not None]


def later(lines: list[str], since: str | None) -> list[str]:
    """What a server sends to a connection: it compares whole seconds, as the kubelet does."""
    return [line for line in lines if since is None or line[:19] >= since[:19]]


def test_a_log_in_one_piece_comes_without_its_stamps():
    assert read(Seam(), LINES) == ["one", "two", "two", "three", "to stderr, a little earlier", " four "]


def test_a_log_in_pieces_is_the_log_wherever_it_was_cut():
    whole = read(Seam(), LINES)
    for first in range(len(LINES) + 1):
        for second in range(first, len(LINES) + 1):
            seam = Seam()
            pieces = read(seam, later(LINES[:first], seam.since))
            pieces += read(seam, later(LINES[:second], seam.since))
            pieces += read(seam, later(LINES, seam.since))
            pieces += read(seam, later(LINES, seam.since))  # a connection that brings nothing new
            assert pieces == whole, (first, second)


def test_what_the_node_says_of_the_log_is_no_part_of_it():
    assert read(Seam(), ["unable to retrieve container logs for containerd://12", LINES[0]]) == ["one"]


def test_an_empty_line_is_a_line():
    assert read(Seam(), ["2026-11-24T18:00:01.1Z ", "2026-11-24T18:00:01.2Z"]) == ["", ""]


def test_only_the_lines_that_can_come_again_are_kept():
    seam = Seam()
    read(seam, [f"2026-11-24T18:{i // 60:02}:{i % 60:02}.5Z line" for i in range(3000)])
    assert len(seam._recent) <= 2
