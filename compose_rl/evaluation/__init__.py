"""How good a policy is: what it generates, what verifiers and reward models say of it, and the report."""
