from __future__ import annotations

import threading

import pytest

from compose_rl.errors import TransientError
from compose_rl.launch.kubernetes import patience
from compose_rl.launch.kubernetes.patience import Closed, Outages, Patience
from compose_rl.launch.kubernetes.refusals import Forbidden, NotServed, Unauthorized, Unavailable


class Server:
    """Fails as it is told, then answers."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        if self.failures:
            raise self.failures.pop(0)
        return "answer"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def patient(said: list[str], monkeypatch: pytest.MonkeyPatch) -> Patience:
    monkeypatch.setattr(patience, "_FIRST_SECONDS", 0.001)
    monkeypatch.setattr(patience, "_LONGEST_SECONDS", 0.01)
    return Patience(60, Outages(said.append))


def away() -> Unavailable:
    return Unavailable("connection refused", reached=False)


def test_an_outage_is_told_once_at_its_start_and_once_at_its_end(patient: Patience, said: list[str]):
    assert patient.call(Server(*[away() for _ in range(9)]), "get pods") == "answer"
    assert len(said) == 2
    assert "waiting for the Kubernetes API: connection refused" in said[0]
    assert "answers again" in said[1]


def test_several_that_wait_for_the_same_server_tell_it_once(patient: Patience, said: list[str]):
    servers = [Server(*[away() for _ in range(9)]) for _ in range(4)]
    threads = [
        threading.Thread(target=patient.call, args=(server, f"call {number}"))
        for number, server in enumerate(servers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum("waiting" in line for line in said) == sum("again" in line for line in said)
    assert sum("waiting" in line for line in said) < 4


def test_a_single_lost_connection_is_not_worth_a_line(patient: Patience, said: list[str]):
    assert patient.call(Server(away()), "get pods") == "answer"
    assert said == []


def test_patience_ends(said: list[str]):
    short = Patience(0.1, Outages(said.append))
    with pytest.raises(TransientError, match=r"did not answer for 0:00 \(connection refused\)"):
        short.call(Server(*[away() for _ in range(99)]), "get pods")


def test_refusals_pass_through_at_once(patient: Patience):
    server = Server(Forbidden("no"), Forbidden("no"))
    with pytest.raises(Forbidden):
        patient.call(server, "get pods")
    assert server.asked == 1


@pytest.mark.parametrize("refused", [Forbidden, Unauthorized, NotServed])
def test_a_server_that_has_just_come_up_may_not_know_its_roles_and_kinds_yet(
    patient: Patience, refused: type[Exception]
):
    assert patient.call(Server(away(), refused("not yet"), refused("not yet")), "get jobs") == "answer"


def test_a_server_that_asks_to_be_left_alone_is(patient: Patience, monkeypatch: pytest.MonkeyPatch):
    pauses: list[float | None] = []

    def wait(timeout: float | None = None) -> bool:
        pauses.append(timeout)
        return False

    monkeypatch.setattr(patient.closed, "wait", wait)
    patient.call(Server(Unavailable("busy", retry_after=7)), "list pods")
    assert pauses == [7]


def test_waits_grow_and_differ(said: list[str], monkeypatch: pytest.MonkeyPatch):
    patient = Patience(1e9, Outages(said.append))
    pauses: list[float] = []
    monkeypatch.setattr(patient.closed, "wait", lambda timeout: pauses.append(timeout))
    patient.call(Server(*[away() for _ in range(200)]), "list pods")
    assert pauses[0] <= 0.25 and 9 < pauses[-1] <= 20
    assert len(set(pauses[-50:])) > 10


def test_closing_ends_a_wait():
    patient = Patience(60, Outages(lambda line: None))
    patient.closed.set()
    with pytest.raises(Closed):
        patient.call(Server(away()), "watch pods")
