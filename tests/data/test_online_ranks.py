"""Two processes over gloo: they take the same prompts and run as many microbatches."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("torch")

from test_prompts import indices, questions, source

from compose_rl.data.encoding import load_tokenizer

__all__ = ["questions"]

PROGRAM = textwrap.dedent(
    """
    import sys
    sys.path.insert(0, "tests/data")
    from pathlib import Path
    from composer.utils import dist, get_device
    from compose_rl.data import microbatches
    from compose_rl.data.encoding import load_tokenizer
    from compose_rl.errors import UserError
    from test_experience import check_rows, experience
    from test_prompts import source

    dist.initialize_dist(get_device("cpu"), timeout=60)
    rank = dist.get_global_rank()
    folder, tokenizer = Path(sys.argv[1]), load_tokenizer(sys.argv[2])

    # The prompts that are too long lie in the part that rank 1 looks at, the sample named in that of rank 0.
    prompts = source(folder, tokenizer, {"max_seq_len": 9}, drop_long=True, curriculum="level")
    told = dist.all_gather_object((prompts.take(9), prompts.dropped))
    assert told[0] == told[1], told
    try:
        source(folder, tokenizer, curriculum="levle")
    except UserError as error:
        told = dist.all_gather_object(str(error))
    assert told[0] == told[1] and "sample 0 has no such column" in told[0], told
    if rank == 0:
        print("TAKEN", [prompt.index for prompt in prompts.take(5)])

    whole = experience(2, [1, 3, 2, 2], [4, 1, 2, 2, 9, 5, 9, 9])
    batch = whole.minibatch([0, 1, 2, 3], 0, 8, rank, 2)
    parts = microbatches.split_ragged(batch, 2, 18)
    answers = [check_rows(part, 2) for part in parts]
    counts = [microbatches.answers(part) for part in parts]
    learnt = [microbatches.count_answers(part)["loss_generating"] for part in parts]
    # Answers 0, 3 and 6 have no weight.
    if rank == 0:
        assert (answers, counts, learnt) == ([[0, 1, 2, 3], [0, 1]], [4, 0], [2, 0]), (answers, counts)
        assert not parts[1]["token_weights"].any() and not parts[1]["answer_weights"].any()
    else:
        assert (answers, counts, learnt) == ([[4, 5], [6, 7]], [2, 2], [2, 1]), (answers, counts)
    """
)


def test_two_processes_agree(questions: Path, small_tokenizer: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = ["--no-python", sys.executable, "-c", PROGRAM, str(questions), str(small_tokenizer)]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    alone = source(questions, load_tokenizer(small_tokenizer), {"max_seq_len": 9}, drop_long=True)
    alone.taken = 9
    assert f"TAKEN {indices(alone, 5)}" in done.stdout
