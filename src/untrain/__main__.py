"""`python -m untrain`: the command line."""

import sys

from untrain.cli import main

sys.exit(main())
