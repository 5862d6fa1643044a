"""A policy with a critic under Composer: trained, saved, resumed, and written by ``hf_checkpointer``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import tiny_online as online
import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = pytest.mark.filterwarnings("ignore")

LORA = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "target_modules": ["q_proj", "v_proj"]}


def trainer(model: Any, folder: Path, **keys: Any) -> Any:
    """Two optimizer steps of two microbatches each, over update batches."""
    from composer import DataSpec, Trainer

    batches = [online.update_batch(rows=4, seed=seed) for seed in (1, 2)]
    data = DataSpec(
        DataLoader(batches, batch_size=None),
        split_batch=lambda batch, size: [online.take(batch, [0, 1]), online.take(batch, [2, 3])],
        get_num_samples_in_batch=lambda batch: len(batch["lengths"]),
        get_num_tokens_in_batch=lambda batch: int(batch["answer_weights"].count_nonzero()),
    )
    return Trainer(
        model=model,
        train_dataloader=data,
        optimizers=torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2),
        max_duration="1ep",
        device="cpu",
        device_train_microbatch_size=2,
        accumulate_train_batch_on_tokens=True,
        progress_bar=False,
        **keys,
    )


def build(folder: Path, **keys: Any) -> Any:
    from compose_rl.models.online import ComposerHFPolicyLM

    return ComposerHFPolicyLM(AutoTokenizer.from_pretrained(folder), str(folder), **keys)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"joint_actor_critic": False},
        {"peft_config": LORA},
        {"peft_config": LORA, "joint_actor_critic": False},
    ],
    ids=["shared", "separate", "lora", "lora-separate"],
)
def test_a_run_is_saved_whole_and_written_without_its_critic(
    keys: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    from composer.loggers import InMemoryLogger
    from llmfoundry.callbacks import HuggingFaceCheckpointer

    writer = HuggingFaceCheckpointer(str(tmp_path / "hf"), "1ep", precision="float32", overwrite=True)
    logger = InMemoryLogger()
    model = build(tiny_model, **keys)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run = trainer(model, tmp_path, callbacks=[writer], loggers=[logger])
    run.fit()
    run.save_checkpoint(str(tmp_path / "state.pt"))
    names = {"total", "policy_loss", "value_loss", "entropy", "clip_fraction", "policy_kl"}
    assert {f"loss/train/{name}" for name in names} <= logger.data.keys()
    trained = model.state_dict()
    moved = [name for name, tensor in trained.items() if not torch.equal(tensor, before[name])]
    assert any("critic" in name for name in moved)
    assert any("critic" not in name for name in moved)

    again = build(tiny_model, **keys)
    trainer(again, tmp_path, load_path=str(tmp_path / "state.pt"))
    batch = online.update_batch(seed=5)
    with torch.no_grad():
        expected, found = model.eval()(batch), again.eval()(batch)
    assert expected["values"].abs().max() > 1e-3
    for name in ("logps", "values"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-6)

    (folder,) = (tmp_path / "hf").rglob("huggingface/*")
    written = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokens = torch.arange(2, 12)[None]
    with torch.no_grad():
        logits = model.model(input_ids=tokens).logits
        torch.testing.assert_close(written(input_ids=tokens).logits, logits, rtol=1e-5, atol=1e-5)
    assert not [name for name in written.state_dict() if "critic" in name]
