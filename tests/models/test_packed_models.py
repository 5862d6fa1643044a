"""Whole models: packed, with prompts shared, against each answer in a padded row of its own."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from compose_rl.core.losses import OFFLINE_LOSSES, PairLogps  # noqa: E402
from compose_rl.core.packing import pack, restarting_positions  # noqa: E402
from compose_rl.core.padded import pad_answers, padded_logprobs  # noqa: E402
from compose_rl.errors import UserError  # noqa: E402
from compose_rl.models.backbone import PACKED_MODEL_TYPES, check_packable, use_packed_attention  # noqa: E402
from compose_rl.models.policy import make_policy  # noqa: E402

VOCAB = 50
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
KNOWN = sorted(PACKED_MODEL_TYPES & set(transformers.CONFIG_MAPPING.keys()))
LENGTHS = torch.tensor([[3, 4, 2], [5, 2, 6], [7, 1, 3]])


def config_of(model_type, **settings):
    config = transformers.AutoConfig.for_model(model_type, **SIZES, **settings)
    if model_type == "mistral" and "sliding_window" not in settings:
        config.sliding_window = None
    return config


def causal_lm(model_type, **settings):
    torch.manual_seed(0)
    config = config_of(model_type, **settings)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    # Large enough that attention is far from uniform.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    return model.train()


def batch(lengths=LENGTHS, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return pack(torch.randint(3, VOCAB, (int(lengths.sum()),), generator=generator), lengths)


def padded_reference(model, packed):
    return padded_logprobs(
        lambda ids, mask: model(input_ids=ids, attention_mask=mask).logits, pad_answers(packed, 0)
    )


def dpo_gradients(model, packed, logprobs):
    policy = packed.sum_per_answer(logprobs)
    pairs = PairLogps(
        policy_chosen=policy[0::2],
        policy_rejected=policy[1::2],
        ref_chosen=policy[0::2].detach() - 0.3,
        ref_rejected=policy[1::2].detach() + 0.2,
        chosen_length=packed.answer_lengths[0::2],
        rejected_length=packed.answer_lengths[1::2],
    )
    from compose_rl.config.offline_rl import OfflineRLSettings

    loss = OFFLINE_LOSSES["dpo"](pairs, OfflineRLSettings()).loss
    return loss, torch.autograd.grad(loss, list(model.parameters()))


def assert_same_gradients(ours, expected):
    for mine, theirs in zip(ours, expected, strict=True):
        # Relative to the tensor's own scale.
        scale = theirs.abs().max().clamp(min=1e-3)
        torch.testing.assert_close(mine / scale, theirs / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("model_type", KNOWN)
def test_packed_loss_and_gradients_are_the_padded_paths(model_type):
    model = causal_lm(model_type).double()
    packed = batch()
    expected_logprobs = padded_reference(model, packed)
    expected_loss, expected = dpo_gradients(model, packed, expected_logprobs)
    make_policy(model)
    logprobs = model(packed=packed)
    loss, gradients = dpo_gradients(model, packed, logprobs)
    torch.testing.assert_close(logprobs.double(), expected_logprobs.double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss.double(), expected_loss.double(), rtol=1e-5, atol=1e-5)
    assert_same_gradients(gradients, expected)


def test_single_precision_and_checkpointed_layers_agree_too():
    model = causal_lm("llama")
    packed = batch()
    expected_loss, expected = dpo_gradients(model, packed, padded_reference(model, packed))
    make_policy(model)
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        loss, gradients = dpo_gradients(model, packed, model(packed=packed))
        torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-5)
        assert_same_gradients(gradients, expected)


def test_a_shared_prompt_is_the_same_as_separate_sequences():
    model = make_policy(causal_lm("llama", tie_word_embeddings=True).double())
    lengths = torch.tensor([[4, 3, 2, 5]])
    shared = batch(lengths)
    tokens = shared.input_ids
    rows = [torch.cat([tokens[:4], tokens[a:b]]) for a, b in ((4, 7), (7, 9), (9, 14))]
    separate = pack(torch.cat(rows), torch.tensor([[4, 3], [4, 2], [4, 5]]))
    torch.testing.assert_close(model(packed=shared), model(packed=separate), rtol=1e-10, atol=1e-10)


def test_order_of_rows_changes_no_log_prob():
    model = make_policy(causal_lm("llama").double())
    packed = batch()
    rows = packed.input_ids.split(LENGTHS.sum(1).tolist())
    order = [2, 0, 1]
    again = pack(torch.cat([rows[row] for row in order]), LENGTHS[order])
    before = packed.sum_per_answer(model(packed=packed)).view(3, 2)
    after = again.sum_per_answer(model(packed=again)).view(3, 2)
    torch.testing.assert_close(after, before[order], rtol=1e-10, atol=1e-10)


def test_a_token_of_another_row_changes_nothing():
    model = make_policy(causal_lm("llama").double())
    packed = batch()
    before = model(packed=packed)
    changed = packed.input_ids.clone()
    changed[:9] = 5  # all of row 0
    after = model(packed=pack(changed, LENGTHS))
    others = packed.answer_ids >= 2
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[~others], after[~others])


def test_samples_in_one_row_do_not_see_each_other():
    model = causal_lm("llama").double()
    samples = [torch.arange(3, 9), torch.arange(20, 24), torch.arange(30, 37)]
    with torch.no_grad():
        expected = torch.cat([model(input_ids=s[None]).logits[0] for s in samples])
        use_packed_attention(model)
        logits = model(
            input_ids=torch.cat(samples)[None],
            position_ids=restarting_positions(torch.tensor([6, 4, 7]))[None],
            attention_mask=torch.ones(1, 17, dtype=torch.long),
        ).logits[0]
    # The eager attention of transformers takes its softmax in single precision.
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


def test_generation_and_padded_calls_are_as_before():
    model = causal_lm("llama").eval()
    ids = torch.tensor([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12]])
    mask = (ids > 0).long()
    arguments = {"attention_mask": mask, "max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    expected_tokens = model.generate(ids, **arguments)
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).logits[mask.bool()]
        use_packed_attention(model)
        logits = model(input_ids=ids, attention_mask=mask).logits[mask.bool()]
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-4)
    assert torch.equal(model.generate(ids, **arguments), expected_tokens)


def test_no_dense_mask_is_built(monkeypatch):
    model = make_policy(causal_lm("llama"))
    seen = []
    attend = model.model.layers[0].self_attn.forward
    monkeypatch.setattr(
        model.model.layers[0].self_attn,
        "forward",
        lambda *args, **kwargs: seen.append(kwargs["attention_mask"].shape) or attend(*args, **kwargs),
    )
    packed = batch()
    model(packed=packed)
    assert seen == [(1, 1, 2, packed.input_ids.numel())]


def test_an_adapter_runs_packed_and_off_gives_the_base():
    peft = pytest.importorskip("peft")
    base = causal_lm("llama").double()
    packed = batch()
    expected = padded_reference(base, packed).detach()
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"])
    model = peft.get_peft_model(make_policy(base), lora)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
        adapted = model(packed=packed)
        with model.disable_adapter():
            plain = model(packed=packed)
    torch.testing.assert_close(plain.double(), expected.double(), rtol=1e-6, atol=1e-6)
    assert (adapted - plain).abs().max() > 0.01


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (transformers.GPT2Config(), "model_type is gpt2"),
        (transformers.Gemma2Config(), "model_type is gemma2"),
        (config_of("mistral", sliding_window=16), "sliding_window is 16"),
        (config_of("llama", attention_dropout=0.1), "attention_dropout is 0.1"),
        (config_of("phi3", resid_pdrop=0.2), "resid_pdrop is 0.2"),
    ],
)
def test_models_that_cannot_run_packed_are_refused(config, words):
    with pytest.raises(UserError, match=words) as error:
        check_packable(config)
    assert "\n" not in str(error.value)


def test_an_unused_sliding_window_is_no_obstacle():
    check_packable(config_of("qwen2", use_sliding_window=False, sliding_window=16))
