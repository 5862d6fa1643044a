"""Cron expressions of recurring runs."""

import pytest

pytest.importorskip("kfp")

from compose_rl.errors import UserError
from pipelines.schedule import cron


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
