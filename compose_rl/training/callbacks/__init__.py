"""Composer callbacks and loggers, each with one job. Registered with LLM Foundry by entry points."""
