"""Starting stages: the same job file, in a process here or wherever a backend puts it."""

from compose_rl.launch.stage import Outcome, run_stage

__all__ = ["Outcome", "run_stage"]
