"""Helpers of the folder above can be imported, also where these tests run alone."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
