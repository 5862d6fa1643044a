"""The report: one HTML file that needs nothing else, and the same figures for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from compose_rl.evaluation.figures import curve_figure, interval_figure, read_curves, select_curves
from compose_rl.evaluation.measures import Sides
from compose_rl.evaluation.samples import Samples
from compose_rl.evaluation.table import headline, markdown, timings
from compose_rl.stages.job import Job, fetched
from compose_rl.stages.provenance import commit, versions
from compose_rl.store.lineage import ancestry
from compose_rl.store.manifest import Manifest

__all__ = ["StageSection", "render", "template", "write_report"]

CURVES = "curves"
DATA_REPORT = "report.json"


@dataclass(frozen=True)
class StageSection:
    """What the report says of a stage that led here."""

    manifest: Manifest
    config: str
    """YAML."""
    curves: list[Markup]
    data: dict[str, Any]
    """The data report of a tokenize stage."""


def write_report(
    job: Job, metrics: Mapping[str, float], samples: Samples, judgements: Mapping[str, Sides]
) -> None:
    """Fill the output ``report``: report.html, report.md, metrics.json, samples.jsonl."""
    folder = job.output("report")
    with job.progress.phase("report"):
        manifests = ancestry(job.inputs.values())
        samples.write(folder / "samples.jsonl", judgements)
        _write(folder / "metrics.json", json.dumps(dict(metrics), indent=2, sort_keys=True) + "\n")
        rows = headline(metrics)
        _write(
            folder / "report.md", markdown("Evaluation", rows) + "\n" + markdown("Time", timings(manifests))
        )
        shown = list(islice(samples.rows(judgements), job.config.num_samples))
        own_config = _yaml(job.config.model_dump(mode="json"))
        _write(folder / "report.html", render(metrics, shown, manifests, own_config=own_config, key=job.key))


def render(
    metrics: Mapping[str, float],
    samples: list[dict[str, Any]],
    manifests: list[Manifest],
    *,
    own_config: str,
    key: str,
) -> str:
    """The page.

    Args:
        samples: rows to show, as :meth:`Samples.rows` gives them.
        manifests: the stages that led here, in order.
        own_config: YAML.
    """
    return template("report.html.j2").render(
        headline=headline(metrics),
        win_rates=_win_rates(metrics),
        timings=timings(manifests),
        samples=samples,
        stages=[_section(manifest) for manifest in manifests],
        own_config=own_config,
        key=key,
        commit=commit(),
        versions=versions(),
    )


def template(name: str) -> Any:
    """The page of that name."""
    environment = Environment(
        loader=PackageLoader("compose_rl.evaluation", "."),
        autoescape=select_autoescape(["html", "j2"], default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _win_rates(metrics: Mapping[str, float]) -> Markup | None:
    labels = {"win_rate/reward_model": "by the reward model", "win_rate/verifier": "by the verifier"}
    rates = {
        label: (metrics[name], metrics[f"{name}_low"], metrics[f"{name}_high"])
        for name, label in labels.items()
        if name in metrics
    }
    return Markup(interval_figure(rates)) if rates else None


def _section(manifest: Manifest) -> StageSection:
    curves: list[Markup] = []
    if CURVES in manifest.outputs:
        found = select_curves(read_curves(fetched(manifest, CURVES) / "curves.jsonl"))
        curves = [Markup(curve_figure(name, curve)) for name, curve in found.items()]
    data: dict[str, Any] = {}
    if manifest.stage == "tokenize":
        data = json.loads((fetched(manifest, "report") / DATA_REPORT).read_text(encoding="utf-8"))
    return StageSection(manifest, _yaml(manifest.config), curves, data)


def _yaml(document: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
