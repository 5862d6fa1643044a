"""The subcommands of ``compose-rl``: each has ``add(parser)`` and ``run(arguments)``, and imports late."""
