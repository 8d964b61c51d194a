"""Memory that a command frees stays with it, and only there."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from untrain.allocator import keep_freed_memory
print(keep_freed_memory())
for _ in range(20):
    block = bytearray(48 << 20)
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def run(**environment):
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**plain, **environment}, capture_output=True, text=True, check=True
    )
    kept, faults = done.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone")
def test_freed_blocks_are_not_asked_for_again_unless_the_user_set_the_allocator():
    """Twenty blocks of 48 MiB are 245,760 pages where each is got anew, 12,288 where one is kept."""
    kept, faults = run()
    left, more = run(MALLOC_ARENA_MAX="2")
    assert (kept, left) == ("True", "False")
    assert faults < 40_000 < 200_000 < more
