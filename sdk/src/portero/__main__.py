"""`python -m portero` is the command `portero`."""

import sys

from portero.command import main

sys.exit(main())
