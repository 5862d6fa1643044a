import pytest

torch = pytest.importorskip("torch")

from compose_rl.core.packing import pack  # noqa: E402
from compose_rl.core.padded import pad_answers, padded_logprobs  # noqa: E402


def test_each_answer_stands_behind_its_prompt():
    packed = pack(torch.tensor([1, 2, 3, 4, 5, 6, 7, 8]), torch.tensor([[2, 1, 2], [1, 2, 0]]))
    padded = pad_answers(packed, pad_token=9)
    assert padded.input_ids.tolist() == [[1, 2, 3, 9], [1, 2, 4, 5], [6, 7, 8, 9], [6, 9, 9, 9]]
    assert padded.attention_mask.sum(1).tolist() == [3, 4, 3, 1]
    assert padded.ends.tolist() == [2, 3, 2, 0]
    assert padded.targets.tolist() == [3, 4, 5, 7, 8]
    assert padded.target_rows.tolist() == [0, 1, 1, 2, 2]
    assert padded.target_columns.tolist() == [1, 1, 2, 0, 1]


def test_log_probs_by_hand():
    # Two tokens with logits (0, t): log softmax of token 1 is -log(1 + exp(-t)). t is 2 * temperature here.
    packed = pack(torch.tensor([0, 1]), torch.tensor([[1, 1]]))
    logits = torch.tensor([[[0.0, 6.0], [5.0, 5.0]]])
    out = padded_logprobs(lambda ids, mask: logits, pad_answers(packed, 0), temperature=3.0)
    assert out.item() == pytest.approx(-0.126928, abs=1e-6)  # -log(1 + exp(-2))
