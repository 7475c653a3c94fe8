"""The two ways a command of ours ends badly; `pecore.cli` turns them into exit codes."""


class InputError(ValueError):
    """What the user gave can't be used (exit code 2). The message is one sentence that names the offending value and
    what to try next."""


class GateError(RuntimeError):
    """A gate failed (exit code 1): the artefact was made, measured and found wanting."""
