"""The command line: `python -m issuer init | check | explain | users | sessions | revoke | …`.

Every command reads the same settings as the server. None prints a secret unless it is asked to.
What each does is in `issuer/commands`, a file a verb.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

from issuer import commands
from issuer.errors import PorteroError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it was done, 1 for a fault, 2 for a revocation still pending."""
    words = commands.shielded(sys.argv[1:] if arguments is None else arguments)
    options = commands.parser(__doc__).parse_args(words)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except (PorteroError, OSError) as error:
        lines = "\n  ".join(str(error).splitlines())
        print(f"issuer: {lines}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
