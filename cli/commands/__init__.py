"""One file per command: an args dataclass, two examples, and `run(args, ctx) -> CommandResult`."""
