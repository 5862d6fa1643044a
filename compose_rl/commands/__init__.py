"""The subcommands of ``compose-rl``: each module has ``add(parser)`` (cheap) and ``run(arguments)`` (imports what it needs)."""
