"""The command `python -m issuer.credentials --generate N`: new users with random secrets.

Each secret is printed once, and its hash alone is written.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from issuer import config
from issuer.errors import PorteroError
from issuer.users import credentials


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 0 when the file is written, 1 for a fault."""
    parser = argparse.ArgumentParser(prog="python -m issuer.credentials", description=__doc__)
    parser.add_argument("--generate", type=int, required=True, metavar="N", help="users per role")
    parser.add_argument("--output", type=Path, default=Path("credentials.env"), metavar="FILE")
    parser.add_argument("--force", action="store_true", help="replace FILE if it is there")
    options = parser.parse_args(arguments)
    if not 1 <= options.generate <= 1000:
        parser.error("--generate must be 1 to 1000")
    try:
        codes = [role.code for role in config.read_policy().roles]
        users = credentials.generate(codes, options.generate)
        credentials.write_new(options.output, credentials.hashed_lines(users), options.force)
    except (PorteroError, OSError) as error:
        print(f"credentials: {error}", file=sys.stderr)
        return 1
    print(f"# {options.output} holds hashes only; these secrets are shown this once")
    print("\n".join(f"{name}={secret}" for name, secret in users))
    return 0


if __name__ == "__main__":
    sys.exit(main())
