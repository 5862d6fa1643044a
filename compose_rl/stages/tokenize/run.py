"""Tokenize: ``python -m compose_rl.stages.tokenize.run``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from compose_rl.config.data import TokenizeConfig
from compose_rl.data.checks import check_tokenizer_folder
from compose_rl.data.dataset_writer import DatasetWriter, ShardFormat, hold_out, prepared_rows
from compose_rl.data.encoding import load_tokenizer, tokenizer_digest
from compose_rl.data.report import DataReport, check_dropped, write_report
from compose_rl.data.sources import Row, count_rows, hub_rows, rows
from compose_rl.data.tokenizing import shard_columns
from compose_rl.errors import UserError
from compose_rl.stages.job import Job, Result, main
from compose_rl.stages.sources import local_source
from compose_rl.stages.tokenize.spec import SPEC
from compose_rl.store.checksums import cache_root
from compose_rl.store.manifest import Manifest

__all__ = ["run"]


@dataclass(frozen=True)
class _Source:
    """Rows of an input, with their columns checked."""

    name: str
    rows: Iterator[Row]
    rewards: bool
    total: int | None


def run(job: Job) -> Result:
    """Tokenize the rows of ``source`` (and ``validation``).

    Raises:
        UserError: rows, columns or tokenizer are of no use, or too many rows had to be dropped.
    """
    config: TokenizeConfig = job.config
    sources = {
        name: _open(job.inputs[name], config) for name in ("source", "validation") if name in job.inputs
    }
    rewards = _rewards(list(sources.values()))
    place = job.model_path("tokenizer")
    check_tokenizer_folder(place, config)
    tokenizer = load_tokenizer(place)
    shards = ShardFormat(config.compression, config.hashes, config.shard_bytes)
    writer = DatasetWriter(place, config, tokenizer.decode, shards, config.workers)
    _write(job, writer, sources, rewards)
    check_dropped(writer.report, config.max_dropped_fraction, sources["source"].name)
    _check_splits(writer.report, config, "validation" in sources)
    facts = {
        "source": sources["source"].name,
        "tokenizer": tokenizer.name_or_path,
        **config.model_dump(mode="json", include={"dataset_type", "max_length", "truncation"}),
    }
    write_report(writer.report, job.output("report"), facts)
    return _result(writer.report, config, tokenizer, rewards)


def _open(manifest: Manifest, config: TokenizeConfig) -> _Source:
    info = manifest.info
    path, split = local_source(manifest, cache_root()), info.get("split")
    if "revision" in info:
        stream, total = hub_rows(path, info.get("subset"), split, str(info["uri"]))
    else:
        stream, total = rows(path, split), count_rows(path, split)
    name = ", ".join(str(info[part]) for part in ("uri", "subset", "split") if info.get(part))
    checked, rewards = prepared_rows(stream, config, name, config.limit)
    limit = config.limit if total is None else min(total, config.limit or total)
    return _Source(name, checked, rewards, limit if total is not None else None)


def _rewards(sources: list[_Source]) -> bool:
    if len({source.rewards for source in sources}) > 1:
        names = " and ".join(source.name for source in sources)
        raise UserError(f"{names}: only one has rewards; give them to both or to neither")
    return sources[0].rewards


def _write(job: Job, writer: DatasetWriter, sources: dict[str, _Source], rewards: bool) -> None:
    config: TokenizeConfig = job.config
    folders = {name: job.output(name) for name in ("train", "validation")}
    totals = [source.total for source in sources.values()]
    total = None if None in totals else sum(count or 0 for count in totals)
    with job.progress.phase("tokenize", total=total, unit="rows") as phase:
        if "validation" not in sources:
            split_of = hold_out(config.validation_fraction, config.validation_seed)
            writer.write(sources["source"].rows, rewards, folders, split_of, phase.advance)
            return
        for name, split in (("source", "train"), ("validation", "validation")):
            only = {split: folders[split]}
            writer.write(sources[name].rows, rewards, only, lambda _, split=split: split, phase.advance)


def _check_splits(report: DataReport, config: TokenizeConfig, separate: bool) -> None:
    kept = {name: len(split.lengths) for name, split in report.splits.items()}
    if not kept["train"]:
        raise UserError(
            f"tokenize: none of the {kept['validation']} samples is left for training;"
            f" lower validation_fraction={config.validation_fraction:g}"
        )
    if kept["validation"] or (config.validation_fraction == 0 and not separate):
        return
    raise UserError(
        f"tokenize: none of {kept['train']} samples held out with"
        f" validation_fraction={config.validation_fraction:g};"
        " raise it, set it to 0 for no validation, or give the input 'validation'"
    )


def _result(report: DataReport, config: TokenizeConfig, tokenizer: Any, rewards: bool) -> Result:
    splits = report.splits
    kept = {name: len(split.lengths) for name, split in splits.items()}
    metrics = {
        "rows": report.rows,
        "dropped": sum(report.dropped.values()),
        "duplicates": sum(split.duplicates for split in splits.values()),
        "tokens": sum(split.tokens for split in splits.values()),
        **{f"{name}_samples": count for name, count in kept.items()},
    }
    info = {
        "dataset_type": config.dataset_type,
        "columns": sorted(shard_columns(config.dataset_type, rewards)),
        "samples": kept,
        "max_length": config.max_length,
        "longest": max(max(split.lengths, default=0) for split in splits.values()),
        "vocab_size": len(tokenizer),
        "tokenizer_sha256": tokenizer_digest(tokenizer),
        "has_rewards": rewards,
    }
    return Result(metrics=metrics, info=info)


if __name__ == "__main__":
    main(SPEC, run)
