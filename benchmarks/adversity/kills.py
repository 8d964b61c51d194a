"""Commands that are killed or interrupted at any moment, and gone on with."""

import signal
from pathlib import Path
from random import Random
from signal import Signals

from adversity.commands import Ended
from adversity.folders import differences, half_written
from adversity.worlds import World

CODES = {signal.SIGKILL: 137, signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}
STARTING, SPEAKING = 0.15, 0.5
"""Seconds of the processor: Python itself starts, and no signal but SIGKILL is sent; it may still end silently."""
_WARM = 0.2
"""What is left of them where Python has started already."""


def kill(world: World, rng: Random, place: Path) -> tuple[str, list[str]]:
    """Kills a command up to three times, goes on with it, and compares the folder with an undisturbed one."""
    scenario = world.choose(rng)
    undisturbed = world.undisturbed(scenario)
    out = world.copy(world.start(scenario), place)
    told, problems = [scenario.name], []
    pace = _WARM if world.launcher.warm else 1
    for number in range(rng.choice((1, 1, 2, 3))):
        what = Signals(rng.choice((signal.SIGKILL,) * 4 + (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)))
        moment = rng.uniform(0, undisturbed.seconds)
        words = world.words(scenario.resumed if number else scenario.words, out)
        running = world.launcher.start(words, place, processes=scenario.processes)
        ended = running.signal_at(moment, what, 0 if what is signal.SIGKILL else STARTING * pace)
        told.append(f"{what.name} after {moment:.2f} s")
        if scenario.processes == 1:  # torchrun has tracebacks and codes of its own
            problems += _problems(ended, what, silent=ended.worked < SPEAKING * pace)
        problems += [f"after {told[-1]}: {each}" for each in (half_written(out) if out.exists() else [])]
    again = world.run(scenario.resumed, place, processes=scenario.processes)
    problems += again.failed_badly()
    if again.code:
        return ", ".join(told), [*problems, f"gone on with, it ends with {again.code}: {again.last_words}"]
    return ", ".join(told), [*problems, *differences(out, undisturbed.folder)]


def _problems(ended: Ended, what: Signals, silent: bool) -> list[str]:
    """What a command may not do that got a signal."""
    found = [f"{what.name}: {each}" for each in ended.failed_badly()]
    codes = {0} if ended.late else {0, CODES[what]}
    if ended.code not in codes:
        found.append(f"{what.name}: exit {ended.code}, not {CODES[what]}: {ended.last_words}")
    elif ended.code and what is not signal.SIGKILL and not silent and "untrain: " not in ended.err:
        found.append(f"{what.name}: it ends without a word")
    return found
