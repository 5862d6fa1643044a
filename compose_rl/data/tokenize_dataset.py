"""Tokenize a dataset without a store: ``python -m compose_rl.data.tokenize_dataset``, with Compose RL's
flags.

Shards of each split go to ``<local_dir>/<split>``, the data report to ``<local_dir>/report/<split>``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from compose_rl.config.data import DatasetType, TokenizeConfig
from compose_rl.config.schema import parse
from compose_rl.data.dataset_writer import DatasetWriter, ShardFormat, prepared_rows
from compose_rl.data.encoding import load_tokenizer
from compose_rl.data.report import check_dropped, write_report
from compose_rl.data.sources import count_rows, hub_rows, rows
from compose_rl.errors import TransientError, UserError
from compose_rl.progress import Progress

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        config = _config(options)
        for split in options.splits:
            _tokenize(options, config, split)
    except (UserError, TransientError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m compose_rl.data.tokenize_dataset", description=__doc__)
    add = parser.add_argument
    add("--dataset_name", required=True, help="hub id, or a file or folder (jsonl, json, parquet, csv)")
    add("--dataset_type", required=True, choices=get_args(DatasetType))
    add("--local_dir", required=True, type=Path, help="where the shards go")
    add("--splits", "--split", nargs="+", default=["train"])
    add("--subset", help="of a hub dataset")
    add("--tokenizer_name", required=True, help="hub id or folder")
    add("--max_length", type=int, default=2048)
    add("--truncation", default="drop", help="drop or truncate_prompt")
    add("--columns", nargs="*", default=[], metavar="OURS=THEIRS", help="for instance prompt=question")
    add("--template", default="chat", help="chat or plain")
    add("--max_dropped_fraction", type=float, default=0.1)
    add("--compression", default=None, help="for instance zstd")
    add("--hashes", nargs="*", default=[], help="for instance sha1 xxh64")
    add("--workers", type=int, default=None)
    return parser


def _config(options: argparse.Namespace) -> TokenizeConfig:
    columns = {}
    for pair in options.columns:
        ours, equals, theirs = pair.partition("=")
        if not equals:
            raise UserError(f"--columns {pair}: write it as ours=theirs, for instance prompt=question")
        columns[ours] = theirs
    names = "dataset_type max_length truncation template max_dropped_fraction compression hashes workers"
    document = {name: getattr(options, name) for name in names.split()}
    return parse(TokenizeConfig, document | {"columns": columns}, "tokenize_dataset")


def _tokenize(options: argparse.Namespace, config: TokenizeConfig, split: str) -> None:
    folder = options.local_dir / split
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"--local_dir {options.local_dir}: {folder} is not empty; remove it or name another")
    path, total = Path(options.dataset_name), None
    if path.exists():
        stream, total = rows(path, split), count_rows(path, split)
    else:
        stream, total = hub_rows(options.dataset_name, options.subset, split, options.dataset_name)
    where = f"{options.dataset_name}, {split}"
    stream, rewards = prepared_rows(stream, config, where)
    tokenizer = load_tokenizer(options.tokenizer_name)
    shards = ShardFormat(config.compression, config.hashes)
    writer = DatasetWriter(options.tokenizer_name, config, tokenizer.decode, shards, config.workers)
    # Written beside its place and moved there at the end: what lies there is whole.
    with tempfile.TemporaryDirectory(dir=_made(options.local_dir), prefix=f".{split}.") as scratch:
        written = Path(scratch) / split
        with Progress("tokenize").phase(split, total=total, unit="rows") as phase:
            writer.write(stream, rewards, {split: written}, lambda sample: split, phase.advance)
        check_dropped(writer.report, config.max_dropped_fraction, where)
        written.replace(folder)
    facts = {"source": where, "tokenizer": options.tokenizer_name, "dataset_type": config.dataset_type}
    write_report(writer.report, options.local_dir / "report" / split, facts)


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--local_dir {folder}: cannot be made ({error}); name another") from None
    return folder


if __name__ == "__main__":
    sys.exit(main())
