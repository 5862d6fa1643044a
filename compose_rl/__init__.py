"""RLHF as a Kubeflow pipeline of containerized stages, on Composer and LLM Foundry."""
