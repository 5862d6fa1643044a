"""Export: what was trained is what can be loaded, and nothing else gets through."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import tiny_training as tiny
import torch
from safetensors.torch import load_file, save_file
from torch.distributed import checkpoint as dcp
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from compose_rl.errors import UserError
from compose_rl.models.description import write_description
from compose_rl.models.hf_export import compare, write_adapter
from compose_rl.models.hf_reward import AutoModelForCausalLMWithRM, RewardModelConfig
from compose_rl.store.manifest import Input, Manifest

pytestmark = pytest.mark.filterwarnings("ignore")

CAUSAL, CLASSIFIER, VALUE_HEAD = "causal_lm", "sequence_classification", "reward_value_head"
STAGES = {CAUSAL: "sft", CLASSIFIER: "reward_model", VALUE_HEAD: "reward_model"}
AUTO = {CAUSAL: AutoModelForCausalLM, CLASSIFIER: AutoModelForSequenceClassification, VALUE_HEAD: AutoModel}
LORA = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}


def trained(folder: Path, model_class: str, seed: int = 1) -> Any:
    """A model of the class on the tiny one's configuration, all weights random."""
    torch.manual_seed(seed)
    if model_class == VALUE_HEAD:
        language_model = AutoModelForCausalLM.from_pretrained(folder)
        config = RewardModelConfig(language_model.config, bias=0.5)
        return AutoModelForCausalLMWithRM(config, language_model)
    config = AutoModelForCausalLM.from_pretrained(folder).config
    if model_class == CLASSIFIER:
        config.num_labels, config.problem_type = 1, "regression"
    return AUTO[model_class].from_config(config)


def save_whole(model: Any, folder: Path, only: Callable[[str], bool] = lambda name: True) -> None:
    """As Composer's Trainer saves weights: behind the name of the ComposerModel's attribute."""
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items() if only(name)}
    torch.save({"state": {"model": state, "run_name": "x"}}, folder / "model.pt")


def save_sharded(model: Any, folder: Path) -> None:
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    optimizer = {"state": {"exp_avg": torch.ones(3)}}
    dcp.save({"state": {"model": state, "optimizers": optimizer}}, checkpoint_id=folder / "ep1-ba3")


def checkpoint_manifest(
    model: Any,
    model_class: str,
    base: Path,
    folder: Path,
    save: Callable[..., None] = save_whole,
    **info: Any,
) -> Manifest:
    folder.mkdir(parents=True)
    write_description(model, base, folder / "hf")
    save(model, folder)
    info = {"model_class": model_class, "vocab_size": tiny.VOCAB, **info}
    return tiny.manifest(STAGES[model_class], folder, {"checkpoint": folder}, info)


def export(manifest: Manifest, storage: Path, **config: Any) -> tuple[Manifest, Path]:
    result = tiny.run_stage("export", config, {"checkpoint": manifest}, storage)
    return result, Path(result.output("model").uri)


@pytest.mark.parametrize("save", [save_whole, save_sharded])
@pytest.mark.parametrize("model_class", [CAUSAL, CLASSIFIER, VALUE_HEAD])
def test_every_class_comes_back_as_trained(
    tiny_model: Path, tmp_path: Path, model_class: str, save: Callable[..., None]
) -> None:
    model = trained(tiny_model, model_class)
    manifest = checkpoint_manifest(model, model_class, tiny_model, tmp_path / "c", save)
    result, folder = export(manifest, tmp_path / "store")
    loaded = AUTO[model_class].from_pretrained(folder)
    assert type(loaded) is type(model)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)
    assert {file.path for file in result.output("model").files} >= {"model.safetensors", "tokenizer.json"}
    assert not [file for file in result.output("model").files if file.path.endswith((".pt", ".bin"))]
    assert result.info == {
        "model_class": model_class,
        "dtype": "float32",
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocab_size": tiny.VOCAB,
    }
    assert AutoTokenizer.from_pretrained(folder).eos_token_id == tiny.EOS


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_cast_and_the_configuration_says_so(tiny_model: Path, tmp_path: Path, dtype: str) -> None:
    model = trained(tiny_model, CAUSAL)
    manifest = checkpoint_manifest(model, CAUSAL, tiny_model, tmp_path / "c")
    result, folder = export(manifest, tmp_path / "store", dtype=dtype)
    assert result.info["dtype"] == dtype
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == dtype
    loaded = AutoModelForCausalLM.from_pretrained(folder, torch_dtype="auto")
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.to(getattr(torch, dtype)))


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    base = tiny.write_model(tmp_path / "base", tied=True)
    model = AutoModelForCausalLM.from_pretrained(base)
    manifest = checkpoint_manifest(model, CAUSAL, base, tmp_path / "c")
    _, folder = export(manifest, tmp_path / "store")
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


@pytest.fixture
def adapted(tiny_model: Path) -> Any:
    torch.manual_seed(2)
    return lora(AutoModelForCausalLM.from_pretrained(tiny_model))


def lora(model: Any, **changed: Any) -> Any:
    """``model`` with adapters that change its outputs."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(model, LoraConfig(**LORA, **changed))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def adapted_manifest(
    model: Any, base: Path, folder: Path, only: Callable[[str], bool], model_class: str = CAUSAL
) -> Manifest:
    """A checkpoint whose manifest says what it started from."""
    start = tiny.model_manifest(base)
    place = folder.parent / "start.json"
    place.write_text(start.model_copy(update={"uri": str(place)}).to_json())
    manifest = checkpoint_manifest(
        model, model_class, base, folder, lambda m, f: save_whole(m, f, only), peft=True
    )
    return manifest.model_copy(
        update={"inputs": {"model": Input(stage="export", key=start.key, uri=str(place))}}
    )


@pytest.mark.parametrize("only", [lambda name: True, lambda name: "lora_" in name], ids=["whole", "adapter"])
def test_an_adapter_is_merged(
    tiny_model: Path, tmp_path: Path, adapted: Any, only: Callable[[str], bool]
) -> None:
    manifest = adapted_manifest(adapted, tiny_model, tmp_path / "c", only)
    _, folder = export(manifest, tmp_path / "store")
    tokens = torch.arange(2, 12)[None]
    expected = adapted.eval()(input_ids=tokens).logits
    plain = AutoModelForCausalLM.from_pretrained(tiny_model)(input_ids=tokens).logits
    found = AutoModelForCausalLM.from_pretrained(folder)(input_ids=tokens).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert (expected - plain).abs().max() > 1e-3


def test_an_adapter_is_written_alone(tiny_model: Path, tmp_path: Path, adapted: Any) -> None:
    from peft import PeftModel

    manifest = adapted_manifest(adapted, tiny_model, tmp_path / "c", lambda name: "lora_" in name)
    result, folder = export(manifest, tmp_path / "store", merge_adapter=False)
    assert result.info["model_class"] == "causal_lm_adapter"
    assert not (folder / "model.safetensors").exists()
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), folder)
    tokens = torch.arange(2, 12)[None]
    torch.testing.assert_close(loaded(input_ids=tokens).logits, adapted.eval()(input_ids=tokens).logits)


HEADS = {CLASSIFIER: "score", VALUE_HEAD: "value_head"}


@pytest.mark.parametrize("model_class", HEADS)
def test_a_reward_models_adapter_brings_its_head(tiny_model: Path, tmp_path: Path, model_class: str) -> None:
    """The base is the language model that training started from, which has no head."""
    from peft import PeftModel

    config = trained(tiny_model, model_class).config
    if model_class == VALUE_HEAD:
        start = AutoModelForCausalLMWithRM(config, AutoModelForCausalLM.from_pretrained(tiny_model))
    else:
        start = AutoModelForSequenceClassification.from_pretrained(tiny_model, config=config)
    model = lora(start, modules_to_save=[HEADS[model_class]])
    manifest = adapted_manifest(
        model,
        tiny_model,
        tmp_path / "c",
        lambda name: "lora_" in name or "modules_to_save" in name,
        model_class,
    )
    result, folder = export(manifest, tmp_path / "store", merge_adapter=False)
    assert result.info["model_class"] == f"{model_class}_adapter"
    loaded = PeftModel.from_pretrained(AUTO[model_class].from_pretrained(tiny_model, config=config), folder)
    tokens = torch.arange(2, 12)[None]
    torch.testing.assert_close(loaded.eval()(input_ids=tokens)[0], model.eval()(input_ids=tokens)[0])


def change_a_tensor(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors[next(name for name in tensors if "lora_B" in name)] *= 1.01
    save_file(tensors, file)


def change_alpha(folder: Path) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"lora_alpha": 5}))


@pytest.mark.parametrize(
    ("damage", "what"), [(change_a_tensor, "lora_B"), (change_alpha, "outputs read back")]
)
def test_an_adapter_read_back_otherwise_leaves_no_manifest(
    tiny_model: Path,
    tmp_path: Path,
    adapted: Any,
    damage: Callable[[Path], None],
    what: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manifest = adapted_manifest(adapted, tiny_model, tmp_path / "c", lambda name: "lora_" in name)

    def write(model: Any, description: Path, folder: Path, **keys: Any) -> None:
        write_adapter(model, description, folder, **keys)
        damage(folder)

    monkeypatch.setattr("compose_rl.stages.export.run.write_adapter", write)
    with pytest.raises(RuntimeError, match=what):
        export(manifest, tmp_path / "store", merge_adapter=False)
    assert not list((tmp_path / "store").rglob("manifest.json"))


def test_weights_of_another_model_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    other = tiny.write_model(tmp_path / "other", vocab=tiny.VOCAB + 8)
    model = AutoModelForCausalLM.from_pretrained(other)
    manifest = checkpoint_manifest(trained(tiny_model, CAUSAL), CAUSAL, tiny_model, tmp_path / "c")
    save_whole(model, tmp_path / "c")
    manifest = tiny.manifest("sft", tmp_path / "c", {"checkpoint": tmp_path / "c"}, manifest.info)
    with pytest.raises(UserError, match=r"'model.embed_tokens.weight' is \[72, 64\], not \[64, 64\]"):
        export(manifest, tmp_path / "store")


def test_another_kind_of_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    model = trained(tiny_model, CLASSIFIER)
    folder = tmp_path / "c"
    manifest = checkpoint_manifest(trained(tiny_model, CAUSAL), CAUSAL, tiny_model, folder)
    save_whole(model, folder)
    manifest = tiny.manifest("sft", folder, {"checkpoint": folder}, manifest.info)
    with pytest.raises(UserError, match=r"'lm_head.weight' is missing; 'score.weight' is not of this model"):
        export(manifest, tmp_path / "store")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_changed_checkpoint_is_not_even_opened(tiny_model: Path, tmp_path: Path) -> None:
    manifest = checkpoint_manifest(trained(tiny_model, CAUSAL), CAUSAL, tiny_model, tmp_path / "c")
    cut(tmp_path / "c" / "model.pt")
    with pytest.raises(UserError, match=r"model\.pt.*run stage 'sft' again"):
        export(manifest, tmp_path / "store")


@pytest.mark.parametrize(
    ("save", "damage"),
    [
        (save_whole, lambda folder: cut(folder / "model.pt")),
        (save_whole, lambda folder: (folder / "model.pt").unlink()),
        (save_sharded, lambda folder: cut(next(folder.rglob("*.distcp")))),
        (save_sharded, lambda folder: (folder / "ep1-ba3" / ".metadata").unlink()),
    ],
    ids=["cut", "none", "cut shard", "no index"],
)
def test_half_a_checkpoint_is_refused(
    tiny_model: Path, tmp_path: Path, save: Callable[..., None], damage: Callable[[Path], None]
) -> None:
    folder = tmp_path / "c"
    manifest = checkpoint_manifest(trained(tiny_model, CAUSAL), CAUSAL, tiny_model, folder, save)
    damage(folder)
    # Recorded as it is, so that what refuses it is the reading.
    manifest = tiny.manifest("sft", folder, {"checkpoint": folder}, manifest.info)
    with pytest.raises(UserError, match=r"not a whole|no whole"):
        export(manifest, tmp_path / "store")


def test_weights_that_are_not_finite_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    model = trained(tiny_model, CAUSAL)
    model.lm_head.weight.data[0, 0] = float("nan")
    manifest = checkpoint_manifest(model, CAUSAL, tiny_model, tmp_path / "c")
    with pytest.raises(UserError, match=r"'lm_head.weight' is not finite"):
        export(manifest, tmp_path / "store")


def test_weights_beyond_float16_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    model = trained(tiny_model, CAUSAL)
    model.lm_head.weight.data[0, 0] = 1e6
    manifest = checkpoint_manifest(model, CAUSAL, tiny_model, tmp_path / "c")
    with pytest.raises(UserError, match="use bfloat16 or float32"):
        export(manifest, tmp_path / "store", dtype="float16")


def test_a_wrong_export_does_not_pass_the_comparison(tiny_model: Path) -> None:
    model, changed = trained(tiny_model, CAUSAL), trained(tiny_model, CAUSAL)
    compare(model, changed)
    changed.lm_head.weight.data[0, 0] += 1e-3
    with pytest.raises(RuntimeError, match=r"'lm_head.weight'"):
        compare(model, changed)
    other_angles = trained(tiny_model, CAUSAL)
    other_angles.model.rotary_emb.inv_freq *= 2  # no weight, but it shapes the outputs
    with pytest.raises(RuntimeError, match="outputs"):
        compare(model, other_angles)


def test_what_cannot_be_exported_is_refused_early(tiny_model: Path, tmp_path: Path) -> None:
    manifest = checkpoint_manifest(trained(tiny_model, CAUSAL), CAUSAL, tiny_model, tmp_path / "c")
    strange = manifest.model_copy(update={"info": {"model_class": "vision"}})
    with pytest.raises(UserError, match="model_class='vision'"):
        tiny.job_file("export", {}, {"checkpoint": strange}, tmp_path, "a1")
    with pytest.raises(UserError, match="no adapter was trained"):
        tiny.job_file("export", {"merge_adapter": False}, {"checkpoint": manifest}, tmp_path, "a1")
