"""How far tokenizing is from its tokenizer: ``python benchmarks/tokenize_rate.py ROWS TOKENIZER``.

Compares the whole path (read, template, tokenize, write shards, report) with the tokenizer alone encoding
the same texts in one process, and tells what more processes bring.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from compose_rl.config.data import TokenizeOptions
from compose_rl.data.chat import renderer
from compose_rl.data.conversations import draft
from compose_rl.data.dataset_writer import DatasetWriter, ShardFormat, hold_out, prepared_rows
from compose_rl.data.encoding import load_tokenizer
from compose_rl.data.sources import Row, rows


def main() -> None:
    """Print seconds (medians over repetitions) and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path, help="preference data: jsonl, parquet, csv or a folder")
    parser.add_argument("tokenizer", help="folder")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--times", type=int, default=1, help="use the rows so many times")
    options = parser.parse_args()
    data = list(rows(options.rows)) * options.times
    config = TokenizeOptions(dataset_type="preference", max_length=1024)
    alone, alone_cpu = _median(_tokenizer_alone(data, config, options.tokenizer), options.repeat)
    print(f"{len(data)} rows; tokenizer alone: {alone:.2f} s, of CPU {alone_cpu:.2f} s")
    for workers in sorted({1, len(os.sched_getaffinity(0))}):
        whole, cpu = _median(_whole(data, config, options.tokenizer, workers), options.repeat)
        print(
            f"whole, {workers} process(es): {whole:.2f} s ({whole / alone:.2f} of the tokenizer alone),"
            f" of CPU {cpu:.2f} s ({cpu / alone_cpu:.2f})"
        )


def _tokenizer_alone(data: list[Row], config: TokenizeOptions, place: str) -> Callable[[], None]:
    tokenizer = load_tokenizer(place)
    render = renderer(tokenizer, config)
    texts: list[str] = []
    for row in data:
        drafted = draft(row, config, rewards=False)
        prompt = render.prompt(drafted.prompt)
        texts += [prompt, *(render.answer(drafted.prompt, prompt, answer) for answer in drafted.answers)]
    encode = tokenizer.backend_tokenizer.encode_batch_fast

    def run() -> None:
        for start in range(0, len(texts), 768):
            encode(texts[start : start + 768], add_special_tokens=False)

    return run


def _whole(data: list[Row], config: TokenizeOptions, place: str, workers: int) -> Callable[[], None]:
    tokenizer = load_tokenizer(place)

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            writer = DatasetWriter(place, config, tokenizer.decode, ShardFormat(), workers)
            stream, rewards = prepared_rows(iter(data), config, "rows")
            folders = {name: Path(folder) / name for name in ("train", "validation")}
            writer.write(stream, rewards, folders, hold_out(0.05, 17), lambda rows: None)

    return run


def _median(run: Callable[[], None], repeat: int) -> tuple[float, float]:
    """Wall and CPU seconds (of all processes), after one run that does not count."""
    measured = []
    for _ in range(repeat + 1):
        before = os.times()
        run()
        after = os.times()
        measured.append((after.elapsed - before.elapsed, sum(after[:4]) - sum(before[:4])))
    wall, cpu = zip(*measured[1:], strict=True)
    return statistics.median(wall), statistics.median(cpu)


if __name__ == "__main__":
    main()
