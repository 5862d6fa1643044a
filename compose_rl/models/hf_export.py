"""Write trained weights as a Hugging Face folder, and prove that what was written is what was trained."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)
from transformers.utils import CONFIG_NAME

from compose_rl.errors import UserError
from compose_rl.models import hf_reward

__all__ = [
    "AUTO_CLASSES",
    "compare",
    "compare_adapter",
    "read_adapter",
    "rebuild",
    "write_adapter",
    "write_model",
]

AUTO_CLASSES: dict[str, Any] = {
    "causal_lm": AutoModelForCausalLM,
    "sequence_classification": AutoModelForSequenceClassification,
    "reward_value_head": AutoModel,
}
"""What loads each ``model_class``; AutoModel knows Compose RL's reward model by ``hf_reward``."""
assert hf_reward.RewardModelConfig.model_type

ADAPTER_CONFIG = "adapter_config.json"
_TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""How far outputs may be from the trained ones, relative to their norm (plus the same absolutely)."""


def rebuild(
    description: Path, weights: Mapping[str, torch.Tensor], auto: Any, base: Callable[[], Path]
) -> Any:
    """The trained model: a PreTrainedModel, or a PeftModel around one where there is an adapter.

    Args:
        description: a folder as :mod:`compose_rl.models.description` writes it.
        weights: by name.
        auto: the auto class that the model belongs to.
        base: gives the folder of the model under an adapter whose checkpoint lacks that model's weights.

    Raises:
        UserError: the weights belong to another model.
    """
    config = AutoConfig.from_pretrained(description)
    if not (description / ADAPTER_CONFIG).exists():
        model = auto.from_config(config, torch_dtype=torch.float32)
        _fill(model, weights)
        return model.eval()
    from peft import PeftConfig, get_peft_model

    whole = any(".base_layer." in name for name in weights)
    inner = (
        auto.from_config(config, torch_dtype=torch.float32)
        if whole
        else auto.from_pretrained(base(), config=config, torch_dtype=torch.float32)
    )
    given = {name for name, _ in inner.named_parameters()}
    model = get_peft_model(inner, PeftConfig.from_pretrained(str(description)))
    optional = set() if whole else {name for name in model.state_dict() if _base_name(name) in given}
    _fill(model, weights, optional)
    return model.eval()


def _base_name(name: str) -> str:
    """The name that a tensor of a PEFT model has in the model that was wrapped."""
    plain = name.removeprefix("base_model.model.")
    return plain.replace(".base_layer.", ".").replace(".original_module.", ".")


def _fill(model: Any, weights: Mapping[str, torch.Tensor], optional: set[str] = frozenset()) -> None:
    expected = model.state_dict()
    present = {tensor.data_ptr() for name, tensor in expected.items() if name in weights}
    tied = {name for name, tensor in expected.items() if tensor.data_ptr() in present}
    problems = [
        f"'{name}' is missing" for name in expected if name not in weights and name not in tied | optional
    ]
    problems += [f"'{name}' is not of this model" for name in weights if name not in expected]
    problems += [
        f"'{name}' is {list(tensor.shape)}, not {list(expected[name].shape)}"
        for name, tensor in weights.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"checkpoint: not the weights of the model in its config.json: {'; '.join(problems[:3])}{more};"
            " give the checkpoint together with what its own training stage wrote"
        )
    _check_finite(weights)
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, strict=False)


def _check_finite(weights: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(f"checkpoint: '{name}' is not finite; train again with a lower learning rate")


def write_model(
    model: PreTrainedModel, description: Path, folder: Path, *, dtype: torch.dtype, max_shard_size: str
) -> None:
    """Write ``model``, cast to ``dtype``, with tokenizer and generation configuration.

    Raises:
        UserError: a weight is too large for ``dtype``.
    """
    for name, tensor in model.state_dict().items():
        if not bool(tensor.to(dtype).isfinite().all()):
            raise UserError(
                f"export: dtype={dtype}: '{name}' has values beyond its range; use bfloat16 or float32"
            )
    _copy_description(description, folder)
    cast = copy.deepcopy(model).to(dtype)
    cast.save_pretrained(folder, safe_serialization=True, max_shard_size=max_shard_size)


def write_adapter(model: Any, description: Path, folder: Path, *, dtype: torch.dtype, base: str) -> None:
    """Write the adapter of a PeftModel, which names ``base`` as the model it belongs to."""
    _copy_description(description, folder)
    cast = copy.deepcopy(model).to(dtype)
    for adapter in cast.peft_config.values():
        adapter.base_model_name_or_path = base
    cast.save_pretrained(folder, safe_serialization=True)


def read_adapter(folder: Path, description: Path, base: Path, auto: Any, *, dtype: torch.dtype) -> Any:
    """The adapter in ``folder`` on the model in ``base``, as its user will load them."""
    from peft import PeftModel

    config = AutoConfig.from_pretrained(description)
    return PeftModel.from_pretrained(
        auto.from_pretrained(base, config=config, torch_dtype=dtype), folder, autocast_adapter_dtype=False
    )


def _copy_description(description: Path, folder: Path) -> None:
    for path in description.iterdir():
        if path.name not in (CONFIG_NAME, ADAPTER_CONFIG):
            shutil.copyfile(path, folder / path.name)


def compare(trained: PreTrainedModel, written: PreTrainedModel) -> None:
    """Check that ``written``, read back from its folder, is ``trained``.

    Weights are equal after the cast to the written dtype; outputs on random tokens agree as well as
    that dtype allows.

    Raises:
        RuntimeError: they differ.
    """
    _same_weights(trained.state_dict(), written.state_dict())
    _same_outputs(trained, written)


def compare_adapter(trained: Any, written: Any) -> None:
    """The same for PeftModels: the adapter's weights, and the outputs of the whole.

    Raises:
        RuntimeError: they differ.
    """
    from peft import get_peft_model_state_dict

    _same_weights(get_peft_model_state_dict(trained), get_peft_model_state_dict(written))
    _same_outputs(trained, written)


def _same_weights(trained: Mapping[str, torch.Tensor], written: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in trained.items():
        if name not in written or not torch.equal(tensor.to(written[name].dtype), written[name]):
            raise RuntimeError(f"export: '{name}' read back is not what was trained")


def _same_outputs(trained: Any, written: Any) -> None:
    expected, found = _outputs(trained), _outputs(written)
    tolerance = _TOLERANCE[written.dtype]
    error = (found - expected).norm().item()
    if not error <= tolerance * (expected.norm().item() + 1):
        raise RuntimeError(
            f"export: outputs read back are {error:.3g} off, their norm is {expected.norm():.3g}"
        )


@torch.inference_mode()
def _outputs(model: PreTrainedModel) -> torch.Tensor:
    vocabulary = model.get_input_embeddings().weight.size(0)
    tokens = torch.randint(vocabulary, (2, 16), generator=torch.Generator().manual_seed(0))
    tokens[tokens == model.config.pad_token_id] = (model.config.pad_token_id or 0) + 1
    output = model.eval()(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    return (output.scores if isinstance(output, hf_reward.RewardOutput) else output.logits).float()
