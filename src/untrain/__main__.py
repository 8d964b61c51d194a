"""`python -m untrain`: the command line."""

import os
import sys

if sys.path[:1] in ([""], [os.getcwd()]) and not getattr(sys.flags, "safe_path", False):
    del sys.path[0]  # where `python -m` was called: no file there takes the place of a library's module

from untrain.cli import main

sys.exit(main())
