"""Recurring runs: cron expressions, and what must not be deleted."""

import pytest

pytest.importorskip("kfp")

from kfp_server_api import V2beta1Run

from compose_rl.errors import UserError
from pipelines.schedule import check_none_goes_on, cron


@pytest.mark.parametrize("text", ["0 2 * * *", "*/15 0-6,12 1 1-3/2 0", "59 23 31 12 6"])
def test_five_fields_become_kfps_six(text: str) -> None:
    assert cron(text) == f"0 {text}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 2 * *", "4 fields; write five"),
        ("0 0 2 * * *", "6 fields"),
        ("60 2 * * *", "minute is '60'; write 0 to 59, or *"),
        ("0 24 * * *", "hour is '24'"),
        ("0 2 0 * *", "day of month is '0'"),
        ("0 2 * 13 *", "month is '13'"),
        ("0 2 * * 7", "day of week is '7'"),
        ("0 6-2 * * *", "hour is '6-2'"),
        ("0 */0 * * *", "hour is '*/0'"),
        ("daily at two * *", "minute is 'daily'"),
    ],
)
def test_what_is_no_cron_is_named(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        cron(text)
    assert words in str(caught.value)


@pytest.mark.parametrize("state", ["RUNNING", "PENDING", "CANCELING", None])
def test_a_recurring_run_whose_run_goes_on_is_not_deleted(state: str | None) -> None:
    runs = [V2beta1Run(run_id="r1", recurring_run_id="nightly-id", state=state)]
    with pytest.raises(UserError, match=r"recurring run nightly: its run r1 is .* would be lost"):
        check_none_goes_on("nightly", ["nightly-id"], runs)


def test_ended_runs_and_those_of_others_do_not_matter() -> None:
    runs = [
        V2beta1Run(run_id="r1", recurring_run_id="nightly-id", state="SUCCEEDED"),
        V2beta1Run(run_id="r2", recurring_run_id="nightly-id", state="FAILED"),
        V2beta1Run(run_id="r3", recurring_run_id="another", state="RUNNING"),
        V2beta1Run(run_id="r4", state="RUNNING"),
    ]
    check_none_goes_on("nightly", ["nightly-id"], runs)
