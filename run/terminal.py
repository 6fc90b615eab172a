"""What the user reads."""


class RunError(Exception):
    """One or more lines for the user; the stack cannot go on."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def say(line: str) -> None:
    """One line for the user, at once."""
    print(line, flush=True)
