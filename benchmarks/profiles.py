"""What takes the processor's time of a command and is no forward or backward pass.

    python benchmarks/profiles.py run recipes/demo.yaml
    python benchmarks/profiles.py compare runs/compare-fashion --cell random-10/seed-0/sfron
    python benchmarks/profiles.py run recipes/shapes-text.yaml            # after examples/shapes/make.py
    python benchmarks/profiles.py --least 1 run recipes/digits-ddpm-class.yaml
    python benchmarks/profiles.py unlearn recipes/digits-ddpm-class.yaml  # after untrain train: until the first step

The words are those of the command line; what follows runs in this process, `run` into a folder that is removed unless
`--out` is among them. Every 10 ms of processor time of the process, user and system, all threads, a signal looks
where the main thread stands; a look weighs what passed since the last one, so that a long operation outside Python
counts whole. A look is of a forward pass if a module is called, of a backward pass if autograd runs, of imports if a
module is loaded; else of what of `untrain` stands innermost. Rows of less than 2 % are added up. When a method is first
seen in a step of its own stands below, with what of the time until then was no pass.
"""

import argparse
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import FrameType

from untrain.cli import main as run_command

PASSES = {
    ("torch/nn/modules/module.py", "_call_impl"): "forward passes",
    ("torch/autograd/graph.py", "_engine_run_backward"): "backward passes",
}
"""End of a file and function → what a look is of that finds it on the stack."""
IMPORTS = "imports"
OPTIMIZER = "steps of torch.optim"
OTHER = "outside untrain"


class Looks:
    """Where the main thread stood, by seconds of processor time.

    Attributes:
        seconds: name → seconds.
        before: the same, until a method's first step; None: there was none yet.
    """

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.before: Counter[str] | None = None
        self._last = time.process_time()

    def look(self, _: int, frame: FrameType | None) -> None:
        """Handles the signal."""
        now = time.process_time()
        if self.before is None and in_a_step(frame):
            self.before = self.seconds.copy()
        self.seconds[name_of(frame)] += now - self._last
        self._last = now


def name_of(frame: FrameType | None) -> str:
    """Returns what a stack is at work on."""
    innermost, optimizer, importing = "", False, False
    while frame is not None:
        file, function = frame.f_code.co_filename, frame.f_code.co_name
        for (end, name), of in PASSES.items():
            if function == name and file.endswith(end):
                return of
        importing = importing or "importlib._bootstrap" in file
        optimizer = optimizer or (function == "step" and "torch/optim/" in file)
        if not innermost and "/untrain/" in file:
            innermost = f"{file.rpartition('/untrain/')[2]}: {frame.f_code.co_name}"
        frame = frame.f_back
    if importing:
        return IMPORTS
    return OPTIMIZER if optimizer else innermost or OTHER


def in_a_step(frame: FrameType | None) -> bool:
    """Whether a method is in a step of its own; training, which is a method too, does not count."""
    files = set()
    while frame is not None:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        files |= {file.rpartition("/")[2]} if name == "step" and "/untrain/methods/" in file else set()
        frame = frame.f_back
    return bool(files) and "retrain.py" not in files


def profile(words: list[str]) -> tuple[int, Looks]:
    """Runs a command of `untrain` and looks at it every 10 ms of processor time; its exit status and the looks."""
    looks = Looks()
    signal.signal(signal.SIGPROF, looks.look)
    signal.setitimer(signal.ITIMER_PROF, 0.01, 0.01)
    try:
        status = run_command(words)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return status, looks


def table(seconds: Counter[str], least: float) -> list[str]:
    """Returns the table's lines: what takes at least so many per cent, the largest first, and the rest in one."""
    whole = sum(seconds.values())
    shown = [(name, each) for name, each in seconds.most_common() if each >= least / 100 * whole]
    rest = whole - sum(each for _, each in shown)
    rows = [*shown, (f"all that takes less than {least:g} %", rest)]
    lines = [f"| {name} | {each:.1f} | {each / whole:.1%} |" for name, each in rows]
    return ["| where | s | share |", "|---|---|---|", *lines, f"| all | {whole:.1f} | |"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--least", type=float, default=2.0, help="per cent of the whole that a row has at least")
    parser.add_argument("words", nargs=argparse.REMAINDER, help="of the command line, such as run recipes/demo.yaml")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        own = options.words[:1] == ["run"] and "--out" not in options.words
        status, looks = profile([*options.words, *(["--out", str(Path(folder) / "run")] if own else [])])
    print("\n".join(table(looks.seconds, options.least)))
    if looks.before is not None:
        whole, imports = looks.before.total(), looks.before[IMPORTS]
        passes = sum(looks.before[name] for name in PASSES.values())
        print(f"until the first step: {whole:.1f} s, of which {passes:.1f} in passes and {imports:.1f} of imports")
    sys.exit(status)


if __name__ == "__main__":
    main()
