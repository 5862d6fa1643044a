"""The reward of the GRPO benchmark, the same on both sides."""

__all__ = ["reward"]


def reward(answer: str) -> float:
    """Share of an answer's characters that are lower-case vowels."""
    return sum(character in "aeiou" for character in answer) / max(len(answer), 1)
