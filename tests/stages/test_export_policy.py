"""Export of a policy that was trained with a critic: a plain language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import tiny_online as online
import tiny_training as tiny
import torch
from torch.distributed import checkpoint as dcp
from transformers import AutoModelForCausalLM, AutoTokenizer

from compose_rl.core.packing import pack
from compose_rl.core.padded import pad_answers, padded_logprobs
from compose_rl.models.description import write_description
from compose_rl.models.weights import full_weights
from compose_rl.store.manifest import Input, Manifest

pytestmark = pytest.mark.filterwarnings("ignore")

LORA = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "target_modules": ["q_proj", "v_proj"]}


def trained(folder: Path, **keys: Any) -> Any:
    """A Composer model whose every trained weight has moved."""
    from compose_rl.models.online import ComposerHFPolicyLM

    model = ComposerHFPolicyLM(AutoTokenizer.from_pretrained(folder), str(folder), **keys)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def checkpoint(model: Any, base: Path, folder: Path, form: str) -> Manifest:
    """What the stage leaves: the state as Composer saves it, and what describes it."""
    folder.mkdir()
    write_description(model.model, base, folder / "hf")
    if form == "whole":
        torch.save({"state": {"model": model.state_dict()}}, folder / "model.pt")
    else:
        dcp.save({"state": {"model": model.state_dict()}}, checkpoint_id=folder / "ba1", no_dist=True)
    start = tiny.model_manifest(base)
    place = folder.parent / "start.json"
    place.write_text(start.model_copy(update={"uri": str(place)}).to_json())
    info = {"model_class": "causal_lm", "vocab_size": tiny.VOCAB, "peft": model.using_peft}
    given = tiny.manifest("online_rl", folder, {"checkpoint": folder}, info)
    return given.model_copy(
        update={"inputs": {"model": Input(stage="export", key=start.key, uri=str(place))}}
    )


@pytest.mark.parametrize(
    ("form", "keys"),
    [
        ("whole", {}),
        ("sharded", {}),
        ("whole", {"joint_actor_critic": False}),
        ("whole", {"peft_config": LORA}),
        ("whole", {"peft_config": LORA, "joint_actor_critic": False}),
    ],
    ids=["shared", "sharded", "separate", "lora", "lora-separate"],
)
def test_the_critic_is_stripped_and_the_policy_stays(
    form: str, keys: dict[str, Any], tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = trained(tiny_model, **keys)
    given = checkpoint(model, tiny_model, tmp_path / "checkpoint", form)
    result = tiny.run_stage("export", {}, {"checkpoint": given}, tmp_path / "store")
    assert "is left out" in capsys.readouterr().err
    folder = Path(result.output("model").uri)
    loaded = AutoModelForCausalLM.from_pretrained(folder).eval()
    batch = online.update_batch()
    layout = pack(batch["tokens"], batch["lengths"])
    with torch.no_grad():
        expected = model(batch)["logps"]
        found = padded_logprobs(
            lambda ids, mask: loaded(input_ids=ids, attention_mask=mask).logits, pad_answers(layout, 0)
        )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    # What an engine was given is what is exported.
    engines = dict(full_weights(model))
    for name, tensor in loaded.state_dict().items():
        torch.testing.assert_close(engines[name], tensor, rtol=0, atol=1e-6)
