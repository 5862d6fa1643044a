"""The demo's world: a small language in which a program can tell whether an answer is good."""
