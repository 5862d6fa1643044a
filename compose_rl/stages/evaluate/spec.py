"""``evaluate``: how a policy compares with its starting point on held-out data."""

from __future__ import annotations

from collections.abc import Mapping

from compose_rl.config.evaluate import Evaluate, verifier_code, verifier_source
from compose_rl.errors import UserError
from compose_rl.stages.checks import check_reward_model
from compose_rl.stages.spec import Slot, StageSpec
from compose_rl.store.manifest import Manifest

__all__ = ["SPEC", "has_held_out"]

PROMPT_TYPES = ("single_prompt", "verifiable_answers", "preference")
ONLINE_TYPES = ("single_prompt", "verifiable_answers")


def _check(config: Evaluate, inputs: Mapping[str, Manifest]) -> None:
    if config.verifier is not None:
        verifier_source(config.verifier)
    for name in ("policy", "baseline", "reward_model"):
        _check_whole(name, inputs)
    for name in ("policy", "baseline"):
        if (given := inputs[name].info.get("model_class", "causal_lm")) != "causal_lm":
            raise UserError(
                f"evaluate: input '{name}' ({inputs[name].uri}) is a '{given}'; give a causal language model"
            )
    _check_type(inputs, "preferences", ("preference",))
    _check_type(inputs, "prompts", PROMPT_TYPES)
    check_reward_model("evaluate", "reward_model", inputs)
    _check_type(inputs, "training_prompts", ONLINE_TYPES)
    _check_vocabularies(inputs)
    if not {"preferences", "prompts"} & inputs.keys() and not has_held_out(inputs.get("training_prompts")):
        raise UserError(
            "evaluate: nothing held out to answer; give 'prompts' or 'preferences', or tokenize the training"
            " prompts with a validation_fraction above 0"
        )


def has_held_out(prompts: Manifest | None) -> bool:
    """Whether a share of the tokenized prompts was kept from training."""
    return prompts is not None and bool(prompts.info.get("samples", {}).get("validation"))


def _check_whole(slot: str, inputs: Mapping[str, Manifest]) -> None:
    manifest = inputs.get(slot)
    given = str(manifest.info.get("model_class")) if manifest is not None else ""
    if manifest is not None and given.endswith("_adapter"):
        raise UserError(
            f"evaluate: input '{slot}' ({manifest.uri}) is an adapter alone ('{given}');"
            " export it with merge_adapter: true"
        )


def _check_type(inputs: Mapping[str, Manifest], slot: str, fitting: tuple[str, ...]) -> None:
    manifest = inputs.get(slot)
    if manifest is not None and (given := manifest.info.get("dataset_type")) not in fitting:
        raise UserError(
            f"evaluate: input '{slot}' ({manifest.uri}) has dataset_type '{given}';"
            f" it takes {' or '.join(fitting)}"
        )


def _check_vocabularies(inputs: Mapping[str, Manifest]) -> None:
    """A model may have more tokens than the tokenizer (padding of the embedding), never fewer."""
    sizes = {name: m.info["vocab_size"] for name, m in inputs.items() if "vocab_size" in m.info}
    for data in {"preferences", "prompts", "training_prompts"} & sizes.keys():
        for model in {"policy", "baseline"} & sizes.keys():
            if sizes[data] > sizes[model]:
                raise UserError(
                    f"evaluate: '{model}' has a vocabulary of {sizes[model]}, '{data}' one of {sizes[data]};"
                    " tokenize with this model's tokenizer"
                )


SPEC = StageSpec(
    name="evaluate",
    version=2,
    doc="Compare a policy with its starting point on held-out pairs and prompts.",
    config=Evaluate,
    inputs={
        "policy": Slot(stages=("export", "resolve"), doc="the model to judge"),
        "baseline": Slot(
            stages=("export", "resolve"), doc="the model to compare it with, usually its starting point"
        ),
        "preferences": Slot(stages=("tokenize",), doc="pairs; the validation split is used", optional=True),
        "prompts": Slot(
            stages=("tokenize",),
            doc="prompts to answer, all of them held out",
            optional=True,
        ),
        "training_prompts": Slot(
            stages=("tokenize",),
            doc="what online RL trained on: the validation split is answered where 'prompts' is not given;"
            " without both it is the prompts of held-out pairs",
            optional=True,
        ),
        "reward_model": Slot(
            stages=("resolve", "export"), doc="a reward model that judges both", optional=True
        ),
    },
    outputs={"report": "report.html, metrics.json, samples.jsonl"},
    accelerated=True,
    check=_check,
    code=verifier_code,
)
