"""Answers of the embedded engine against the model run plainly, a token at a time."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from small_llama import END, VOCAB, small_llama  # noqa: E402
from transformers import LlamaForCausalLM  # noqa: E402

from compose_rl.core.packing import pack  # noqa: E402
from compose_rl.errors import UserError  # noqa: E402
from compose_rl.models.policy import make_policy  # noqa: E402
from compose_rl.rollouts.hf import HFGenerator, stop_tokens  # noqa: E402
from compose_rl.rollouts.sampling import uniform_numbers  # noqa: E402
from compose_rl.rollouts.types import Completion, Request, Sampling  # noqa: E402

SAMPLING = Sampling(max_new_tokens=10, temperature=0.8, stop=(END,))
REQUESTS = [
    Request((5, 6, 7), (1, 2, 3)),
    Request((8,), (4,)),
    Request((9, 10, 11, 12, 13, 14), (5, 6, 7, 8, 9)),
    Request((20, 21), (10, 11)),
    Request((30,), (12, 13)),
]


def answers(model: torch.nn.Module, rows: int = 64, **changes: object) -> list[list[Completion]]:
    sampling = Sampling(**(vars(SAMPLING) | changes))
    return HFGenerator(model, rows=rows).generate(REQUESTS, sampling)


def by_hand(model: torch.nn.Module, request: Request, number: int, sampling: Sampling) -> list[int]:
    """One answer without padding and cache: the first token whose distribution function is above u."""
    numbers = uniform_numbers(request.seeds[number], sampling.max_new_tokens)
    tokens = list(request.prompt)
    for u in numbers:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([tokens])).logits[0, -1]
        edges = (logits.double() / sampling.temperature).softmax(-1).cumsum(-1)
        tokens.append(int((edges <= u).sum()))
        if tokens[-1] in sampling.stop:
            break
    return tokens[len(request.prompt) :]


def flat(groups: list[list[Completion]]) -> list[Completion]:
    return [answer for group in groups for answer in group]


def same(left: list[list[Completion]], right: list[list[Completion]]) -> None:
    for a, b in zip(flat(left), flat(right), strict=True):
        assert (a.tokens, a.finished) == (b.tokens, b.finished)
        torch.testing.assert_close(torch.tensor(a.logprobs), torch.tensor(b.logprobs), atol=3e-5, rtol=0)


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_answers_are_those_of_each_prompt_alone_whatever_else_is_generated(
    model: LlamaForCausalLM, rows: int
):
    for request, group in zip(REQUESTS, answers(model, rows), strict=True):
        for number, answer in enumerate(group):
            assert list(answer.tokens) == by_hand(model, request, number, SAMPLING)
            assert answer.finished == (answer.tokens[-1] == END)
            assert answer.finished or len(answer.tokens) == SAMPLING.max_new_tokens


def test_the_order_of_requests_and_groups_change_nothing(model: LlamaForCausalLM):
    generator = HFGenerator(model, rows=4)
    expected = generator.generate(REQUESTS, SAMPLING)
    backwards = generator.generate(REQUESTS[::-1], SAMPLING)
    same(backwards[::-1], expected)
    singles = [Request(request.prompt, (seed,)) for request in REQUESTS for seed in request.seeds]
    same(generator.generate(singles, SAMPLING), [[answer] for answer in flat(expected)])


def test_several_stop_tokens_end_answers(model: LlamaForCausalLM):
    plain = flat(answers(model, stop=()))
    assert all(len(answer.tokens) == 10 and not answer.finished for answer in plain)
    stop = (plain[0].tokens[2], plain[1].tokens[4], END)
    for cut, whole in zip(flat(answers(model, stop=stop)), plain, strict=True):
        at = next((i for i, token in enumerate(whole.tokens) if token in stop), None)
        assert cut.finished == (at is not None)
        assert cut.tokens == (whole.tokens if at is None else whole.tokens[: at + 1])


@pytest.mark.parametrize("filters", [{"top_k": 4}, {"top_p": 0.6}, {}])
def test_logprobs_are_those_of_the_packed_policy_at_the_same_temperature(
    model: LlamaForCausalLM, filters: dict[str, float]
):
    policy = make_policy(model)
    groups = answers(policy, **filters)
    width = 1 + max(len(request.seeds) for request in REQUESTS)
    rows = [[len(r.prompt), *(len(a.tokens) for a in g)] for r, g in zip(REQUESTS, groups, strict=True)]
    lengths = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    stream = [
        t
        for r, g in zip(REQUESTS, groups, strict=True)
        for t in (*r.prompt, *(t for a in g for t in a.tokens))
    ]
    with torch.no_grad():
        expected = policy(packed=pack(torch.tensor(stream), lengths), temperature=0.8)
    given = torch.tensor([p for group in groups for answer in group for p in answer.logprobs])
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)


def test_a_policy_that_trains_is_left_as_it_was(model: LlamaForCausalLM):
    policy = make_policy(model).train()
    policy.model.layers[0].eval()
    modes = [module.training for module in policy.modules()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    answers(policy)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in policy.modules()] == modes
    assert torch.is_grad_enabled()
    # And a backward works after it.
    packed = pack(torch.tensor([5, 6, 7, 8]), torch.tensor([[2, 2]]))
    policy(packed=packed).sum().backward()
    assert policy.model.embed_tokens.weight.grad is not None


def test_adapters_take_part(model: LlamaForCausalLM):
    peft = pytest.importorskip("peft")
    before = answers(model)
    config = peft.LoraConfig(
        r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", lora_dropout=0.5
    )
    wrapped = peft.get_peft_model(model, config).train()
    same(answers(wrapped), before)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(1))
    changed = answers(wrapped)
    assert [a.tokens for a in flat(changed)] != [a.tokens for a in flat(before)]
    same(changed, answers(copy.deepcopy(wrapped).eval().merge_and_unload()))


def test_models_whose_cache_is_their_own_give_the_same_answers(model: LlamaForCausalLM):
    expected = answers(model)
    model._supports_static_cache = False
    same(answers(model, rows=3), expected)


def test_pushed_weights_change_the_copy_and_its_version(model: LlamaForCausalLM):
    other = small_llama()
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(0.5)
    generator = HFGenerator(model, rows=8, shares_weights=False)
    pushed = generator.push(other.named_parameters(), 3)
    assert pushed.bytes == sum(weight.numel() * 4 for weight in other.parameters())
    same(generator.generate(REQUESTS, SAMPLING), answers(other))
    assert generator.generate(REQUESTS, SAMPLING)[0][0].version == 3
    before = copy.deepcopy(model.state_dict())
    wrong = [(name, tensor + 1) for name, tensor in other.named_parameters() if "norm" not in name]
    with pytest.raises(UserError, match=r"5 of the model's 21 are missing"):
        generator.push(wrong, 4)
    with pytest.raises(
        UserError, match=r"embed_tokens.weight has shape \[41, 32\], the model's has \[40, 32\]"
    ):
        generator.push(small_llama(vocab_size=41).named_parameters(), 4)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert generator.version == 3


def test_an_own_model_is_not_copied(model: LlamaForCausalLM):
    generator = HFGenerator(model, rows=8)

    def unread():
        raise AssertionError("read")
        yield

    assert generator.push(unread(), 2).bytes == 0
    assert generator.generate(REQUESTS, SAMPLING)[0][0].version == 2


@pytest.mark.parametrize(
    "prompt, new, message",
    [
        ((), 5, "prompt 1: has no tokens"),
        ((4, VOCAB), 5, "token 40 is not in the model's vocabulary of 40"),
        ((4, -1), 5, "token -1 is not"),
        ((4,) * 60, 5, "60 tokens and an answer of max_gen_len=5 are 65, more than the model's 64"),
    ],
)
def test_requests_that_cannot_be_served_are_refused(
    model: LlamaForCausalLM, prompt: tuple[int, ...], new: int, message: str
):
    requests = [Request((4,), (1,)), Request(prompt, (2,))]
    with pytest.raises(UserError, match=message):
        HFGenerator(model, rows=8).generate(requests, Sampling(new, 1.0, ()))


def test_every_answer_is_told_once(model: LlamaForCausalLM):
    told: list[int] = []
    HFGenerator(model, rows=4).generate(REQUESTS, SAMPLING, told.append)
    assert sum(told) == 13
    assert HFGenerator(model, rows=4).generate([], SAMPLING) == []


def test_the_models_own_end_tokens_come_before_the_tokenizers(model: LlamaForCausalLM):
    tokenizer, silent = SimpleNamespace(eos_token_id=9), SimpleNamespace(eos_token_id=None)
    assert stop_tokens(model, tokenizer) == (END,)
    model.generation_config.eos_token_id = [4, 5]
    assert stop_tokens(model, tokenizer) == (4, 5)
    model.generation_config.eos_token_id = None
    assert stop_tokens(model, tokenizer) == (9,)
    assert stop_tokens(model, silent) == ()


def test_at_temperature_0_the_likeliest_token_is_taken_whatever_the_seed(model: LlamaForCausalLM):
    for request, group in zip(REQUESTS, answers(model, rows=3, temperature=0.0), strict=True):
        tokens = list(request.prompt)
        while len(tokens) < len(request.prompt) + SAMPLING.max_new_tokens and END not in tokens:
            with torch.no_grad():
                tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
        for answer in group:
            assert list(answer.tokens) == tokens[len(request.prompt) :]
            assert answer.logprobs == (0.0,) * len(answer.tokens)
