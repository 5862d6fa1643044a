"""What vLLM's workers can do beside vLLM's own: named by ``worker_extension_cls``, mixed into its class."""

from __future__ import annotations

from typing import Any

__all__ = ["PolicyWorker"]


class PolicyWorker:
    """Takes over a policy's weights."""

    reload_weights: Any
    get_model: Any

    def reload_policy(self, folder: str) -> None:
        """Load the safetensors in ``folder`` in place.

        A tied output layer is not among them. Its weight is the embedding's, but what vLLM prepared from it
        on CPU is still that of the old one, so it is prepared again.
        """
        from vllm.model_executor.layers.vocab_parallel_embedding import (
            ParallelLMHead,
            UnquantizedEmbeddingMethod,
        )

        self.reload_weights(weights_path=folder)
        for layer in self.get_model().modules():
            if isinstance(layer, ParallelLMHead) and isinstance(
                layer.quant_method, UnquantizedEmbeddingMethod
            ):
                layer.quant_method.process_weights_after_loading(layer)
