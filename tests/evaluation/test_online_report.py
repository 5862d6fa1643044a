"""The report of online RL, from curves and samples as a run writes them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("torch")

from compose_rl.evaluation.online_figures import drawings
from compose_rl.evaluation.online_report import online_headline, read_iterations, write_online_report

ITERATIONS, STEPS = 20, 4


def step(iteration: int, number: int) -> dict[str, float]:
    """What is logged at a step: of the iteration with its first one, of the time with each pass's last."""
    logged = {
        "loss/train/total": 0.5,
        "loss/train/policy_loss": -0.01 * number,
        "loss/train/value_loss": 1 / (iteration + 1),
        "loss/train/entropy": 1.0 - 0.01 * iteration,
        "loss/train/clip_fraction": 0.1 * number,
        "loss/train/policy_kl": 0.002 * number,
    }
    if number == 0:
        logged |= {
            "rollout/reward": 0.1 * iteration,
            "rollout/reward_std": 1.0,
            "rollout/rewards/judge": 0.1 * iteration + 1,
            "rollout/rewards/short": -1.0,
            "rollout/kl": 0.01 * iteration,
            "rollout/kl_coef": 0.05,
            "rollout/length": 10.0,
            "rollout/truncated": 0.25,
            "rollout/explained_variance": 0.5,
            "rollout/lost": 0.0,
        }
    if number % 2:
        spent = {"generate": 1.0, "score": 0.5, "logprobs": 0.25, "push": 0.05, "train": number}
        spent["iteration"] = 2.0 + number
        logged |= {f"seconds/{name}": value for name, value in spent.items()}
    return logged


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, Path]:
    curves, samples = tmp_path / "curves.jsonl", tmp_path / "samples.jsonl"
    rows = [step(iteration, number) for iteration in range(ITERATIONS) for number in range(STEPS)]
    curves.write_text(
        "".join(json.dumps({"batch": b + 1, "metrics": row}) + "\n" for b, row in enumerate(rows))
    )
    lines = [
        {
            "iteration": iteration,
            "prompt": f"question {iteration}",
            "answer": "<b>bold</b>" if iteration else "first words",
            "rewards": {"judge": 1.5, "short": None},
            "reward": 1.5,
            "finished": iteration > 0,
        }
        for iteration in range(ITERATIONS)
    ]
    samples.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return curves, samples


def test_a_point_is_an_iteration_and_times_are_those_at_its_end(run: tuple[Path, Path]) -> None:
    curves = read_iterations(run[0])
    assert curves["rollout/reward"] == [(i + 1, pytest.approx(0.1 * i)) for i in range(ITERATIONS)]
    assert curves["loss/train/clip_fraction"][3] == (4, pytest.approx(0.15))  # the mean of 0, 0.1, 0.2, 0.3
    assert curves["seconds/train"] == [(i + 1, 3.0) for i in range(ITERATIONS)]


def test_figures_are_of_the_first_and_of_the_last_tenth(run: tuple[Path, Path]) -> None:
    rows = {label: (first, last) for label, first, last in online_headline(read_iterations(run[0]))}
    assert rows["Reward"] == ("0.050", "1.850")
    assert rows["Reward 'judge'"] == ("1.050", "2.850")
    assert rows["Answers cut at the length limit"] == ("25.0%", "25.0%")
    assert "Groups without signal" not in rows


def test_every_curve_is_drawn_once_and_what_is_always_zero_is_not(run: tuple[Path, Path]) -> None:
    found = drawings(read_iterations(run[0]))
    text = "\n".join(found)
    for title in ("reward, and its", ">rewards<", "KL to the reference", "entropy", "change of the policy"):
        assert text.count(title) == 1, title
    for title in ("explained variance of", "answers<", "losses", "seconds of an iteration", "weight"):
        assert title in text
    assert "do not count" not in text and "engine against trainer" not in text
    assert all(drawing.startswith("<svg") for drawing in found)


def test_the_page_stands_for_itself_and_shows_early_and_late_answers(
    run: tuple[Path, Path], tmp_path: Path
) -> None:
    write_online_report(tmp_path / "report", *run, {"rollout/reward": 1.9})
    page = (tmp_path / "report/report.html").read_text()
    assert not re.search(r"<(script|link|img|iframe)|(src|href)=\"(?!#)", page)
    body = page.split("</svg>")[-1]
    assert body.index("question 0") < body.index("first words") < body.index("question 19")
    assert "short: failed" in body and "; cut" in body
    assert "&lt;b&gt;bold" in body and "<b>bold" not in body
    assert "train" in page and "3.0 s" not in page and "60.0 s (60%)" in page
    assert json.loads((tmp_path / "report/metrics.json").read_text()) == {"rollout/reward": 1.9}


def test_a_run_that_logged_nothing_has_a_page_too(tmp_path: Path) -> None:
    (tmp_path / "curves.jsonl").write_text("")
    write_online_report(tmp_path / "report", tmp_path / "curves.jsonl", tmp_path / "samples.jsonl", {})
    assert "None were kept" in (tmp_path / "report/report.html").read_text()
