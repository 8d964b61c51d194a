"""Memory that a command frees stays with it, and that of a method while it runs."""

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


AROUND = """
import resource
from untrain.allocator import freed_memory_kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        block = bytearray(48 << 20)
        del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

small = resident()
with freed_memory_kept():
    with freed_memory_kept():
        inside = faults()
    inside += faults()
print(inside, faults(), resident() - small)
"""


def run(program=PROGRAM, **environment):
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**plain, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone")
def test_freed_blocks_are_not_asked_for_again_unless_the_user_set_the_allocator():
    """Twenty blocks of 48 MiB are 245,760 pages where each is got anew, 12,288 where one is kept."""
    kept, faults = run()
    left, more = run(MALLOC_ARENA_MAX="2")
    assert (kept, left) == ("True", "False")
    assert int(faults) < 40_000 < 200_000 < int(more)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone")
def test_what_is_kept_in_a_block_goes_back_after_it():
    inside, after, held = map(int, run(AROUND))
    assert inside < 40_000 < 200_000 < after
    assert held < 4_000, "pages that are still there"
