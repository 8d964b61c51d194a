"""The same run again, on one thread and on two."""

from pathlib import Path
from random import Random

from adversity.folders import differences
from adversity.worlds import OUT, World

_SINGLE = ("compare", "sample", "report", "two-processes", "evaluate", "unlearn", "train")


def repeat(world: World, rng: Random, place: Path) -> tuple[str, list[str]]:
    """Runs a recipe again on one thread, which must give the same bits, and on two, which is only told."""
    scenario = world.choose(rng, but=_SINGLE)
    undisturbed = world.undisturbed(scenario).folder
    problems = []
    for threads in (1, 2):
        here = place / str(threads)
        here.mkdir(parents=True)
        ended = world.run(scenario.words, here, threads=threads)
        problems += ended.failed_badly() + ([f"exit {ended.code}: {ended.last_words}"] if ended.code else [])
    problems += [f"on one thread: {each}" for each in differences(place / "1" / OUT, undisturbed)]
    weights = [each for each in differences(place / "2" / OUT, undisturbed) if ".safetensors " in each]
    return (
        f"{scenario.name}, on two threads {f'{len(weights)} files of weights differ' if weights else 'the same'}",
        problems,
    )
