"""Where sentences end, in characters and in tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from compose_rl.rewards.reward_model.sentences import sentence_ends, token_ends


@pytest.mark.parametrize(
    "sentences",
    [
        ["One.", " Two!", " Three?"],
        ["Dr. Smith has 3.5 apples.", " He ate 2."],
        ['He said "Stop!"', " And left."],
        ["John F. Kennedy met Ann B. Lee.", " The answer is B.", " So y = x.", " J. Doe left."],
        ["See e.g. Fig. 3 for it.", " Good"],
        ["Steps:", "\n1. Add.", "\n2. Subtract."],
        ["Line one", "\n\nline two\n"],
        ["Really?! ..."],
        ["no end"],
        [""],
        ["..."],
    ],
)
def test_a_text_is_its_sentences(sentences: list[str]) -> None:
    text = "".join(sentences)
    ends = [len("".join(sentences[: n + 1])) for n in range(len(sentences))]
    assert sentence_ends(text) == ends


def test_a_sentence_ends_at_the_token_that_completes_it(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    words = ["</s>", "<unk>", "A", " bb", ".", " C", " dd", "?! E", "!"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", clean_up_tokenization_spaces=False
    )
    tokens = [2, 3, 4, 5, 6, 7, 6, 8, 0]
    text = fast.decode(tokens, skip_special_tokens=True)
    assert text == "A bb. C dd?! E dd!"
    # The first is whole with token 2, the next inside of token 5, which opens the last; that ends with </s>.
    assert token_ends(fast, tokens, sentence_ends(text)) == [2, 5, 8]
