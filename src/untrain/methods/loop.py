"""The loop that every method runs on.

A method says how to start and what one step does. The loop does the rest once for all: progress, history, a stop on
non-finite losses, checkpoints, resume, evaluation during the run, and clocks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from untrain.allocator import freed_memory_kept
from untrain.callbacks import Callback
from untrain.engine import Engine, is_divided, local_parts, seed_of
from untrain.errors import Diverged, StaleFile
from untrain.lazy import nn, torch
from untrain.methods import base
from untrain.methods.base import TRIED, Method, Problem, State, check_adapts, check_divides
from untrain.methods.shortfalls import find_shortfalls, forget_loss, forget_loss_before, loss_aimed_at
from untrain.models.adapters import Adapters, Attached, attach
from untrain.models.layout import Layout, lay_channels_last_, prefers_channels_last
from untrain.models.lora import LoRA
from untrain.models.modes import check_separable, statistics_note
from untrain.models.parts import trained
from untrain.models.tying import tied
from untrain.sealed import check_trailer, open_sealed

if TYPE_CHECKING:
    from torch import Tensor

SHARE = 20
"""Between two saved states of a large model at least so many times as long as one took passes."""

Watch = Callable[["nn.Module", int], dict[str, float]]
"""Looks at a module during a run, after so many steps; returns what to log."""


@dataclass(eq=False)
class Run:
    """A finished run.

    Attributes:
        state: after the last step.
        method: with every setting resolved.
        history: what each step logged.
        clocks: seconds by part: "fisher", "search", "steps", "evaluation".
        aim: the mean loss that the forget set was to come to; None: the method aims at none.
        lora: what its adapters learned, which is in the module's weights by now; None: it trained the weights.
    """

    state: State
    method: Method
    history: list[dict[str, Any]]
    clocks: dict[str, float]
    aim: float | None = None
    lora: LoRA | None = None

    @property
    def seconds(self) -> float:
        """Seconds that the unlearning took: everything but evaluation."""
        return sum(seconds for name, seconds in self.clocks.items() if name != "evaluation")


@dataclass(frozen=True)
class Checkpoints:
    """Where and how often a run is saved.

    Attributes:
        path: the one file that holds the run's last state.
        fingerprint: a hash of all inputs; a file with another one is refused.
        resume: whether to go on from the file, if there is one.
        every: seconds between two checkpoints.
    """

    path: Path
    fingerprint: str
    resume: bool = False
    every: float = 60.0

    def read(self) -> dict[str, Any] | None:
        """The saved run, or None where there is none to go on from."""
        if not self.resume or not self.path.exists():
            return None
        remedy = "Remove it to start that run anew, or choose another folder."
        try:
            check_trailer(self.path)
            saved = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
            stored = saved["fingerprint"]
        except Exception as error:  # whatever a damaged file makes torch raise
            raise StaleFile(f"{self.path} is damaged and cannot be continued. {remedy}") from error
        if stored != self.fingerprint:
            raise StaleFile(f"{self.path} belongs to a run with other data, weights or settings. {remedy}")
        return saved


@freed_memory_kept()
def run(
    method: Method,
    problem: Problem,
    engine: Engine,
    *,
    checkpoints: Checkpoints | None = None,
    evaluate: Watch | None = None,
    evaluate_every: int = 0,
    title: str | None = None,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Runs a method from its start, or from its last checkpoint, to its last step.

    Args:
        method: its settings may be open; they are resolved here.
        problem: model, task and sets; its module is changed.
        engine: where to run.
        checkpoints: where to save, and whether to go on from there; None: nowhere.
        evaluate: measures the module during the run, after so many steps; its time counts as evaluation.
        evaluate_every: steps between two such measurements; 0: none.
        title: of the progress bar; None: the method's name.
        callbacks: hear, in the main process, of each step, and of what `evaluate` measures under the title.

    Raises:
        Diverged: when a loss is not finite; the module then holds the last good weights, and the message says
            of which step they are.
        SettingError: if the subject's adapters do not fit it, or the method does not run on divided weights.
    """
    if engine.fsdp:
        check_divides(method)
    how = (checkpoints, evaluate, evaluate_every, title, callbacks)
    if problem.subject.adapters is None:
        return _run_with_copies(method, problem, engine, *how)
    check_adapts(method)
    attached = attach_adapters(problem)
    try:
        done = _run_with_copies(method, problem, engine, *how)
    finally:
        lora = attached.merge()
    return replace(done, lora=lora)


def attach_adapters(problem: Problem) -> Attached:
    """Puts a subject's adapters into its module, but for layers that the module holds several copies of.

    Raises:
        ModelError: as of `check_adapters`. SettingError: likewise.
    """
    subject = problem.subject
    copied = {name.rpartition(".")[0] for group in _copies(problem) for name in group}
    adapters = subject.adapters or Adapters()
    return attach(subject.module, adapters, problem.seed, left_out=copied, shared=subject.shares)


def _run_with_copies(method: Method, problem: Problem, engine: Engine, *how: Any) -> Run:
    """With one parameter for each group of copies; what is trained, and how weights lie, is put back afterwards."""
    module = problem.subject.module
    with tied(module, _copies(problem)), trained(module, None):
        layout = Layout.of(module)
        try:
            done = _run(method, problem, engine, *how)
        finally:
            layout.restore_(module)
        layout.restore_(done.state.module)
    return done


def _copies(problem: Problem) -> Sequence[Sequence[str]]:
    """Groups of names of the parameters that are one weight."""
    find_copies = getattr(problem.task, "copies", None)
    return [] if find_copies is None else list(find_copies(problem.subject.module))


def _run(
    method: Method,
    problem: Problem,
    engine: Engine,
    checkpoints: Checkpoints | None,
    evaluate: Watch | None,
    evaluate_every: int,
    title: str | None,
    callbacks: Sequence[Callback],
) -> Run:
    if engine.microbatch is not None:
        check_separable(problem.subject.module)
    saved = checkpoints.read() if checkpoints else None
    history: list[dict[str, Any]] = []
    engine.clocks.clear()
    if saved:
        problem.memo, problem.notes, problem.warnings = saved["memo"], list(saved["notes"]), list(saved["warnings"])
        threads = torch.get_num_threads()
        if saved["threads"] != threads:
            problem.note(
                f"begun with {_threads(saved['threads'])}, gone on with {_threads(threads)}: its "
                "weights differ by rounding from those of an undisturbed run"
            )
        for memo in problem.memo.values():
            memo.update({name: tensor.to(engine.device) for name, tensor in memo.items()})
    with engine.seeded(seed_of(problem.seed, "start")):
        with engine.clock("search"):
            if not engine.fsdp:  # which knows one layout
                _choose_layout(method, problem, engine)
            method = method.resolved(problem, engine)
        before = forget_loss_before(problem, engine)
        state = method.start(problem, engine)
        if engine.fsdp:
            state.divide()
    held = statistics_note(state.module)
    if held is not None:
        problem.note(held)
    first = 0
    if saved:
        state.load_state_dict(saved["state"])
        first, history = saved["step"], [json.loads(line) for line in saved["history"]]
        engine.clocks.update(saved["clocks"])
    title = title or method.name
    try:
        told = callbacks if engine.is_main else ()
        _steps(method, state, engine, first, history, checkpoints, evaluate, evaluate_every, title, told)
    except Diverged:  # in every process, since losses are summed
        state.finish()
        raise
    finally:
        for parameter in state.module.parameters():
            parameter.grad = None  # the last one tells of the data, and is as large as the model
    if state.averaged is not None:
        state.module.load_state_dict(state.averaged.state_dict())
    state.finish()
    engine.broadcast_(state.module.buffers())  # each process has seen its own batch statistics
    state.module.eval()
    aim = loss_aimed_at(method, problem, engine)
    for sentence in find_shortfalls(problem, history, aim, before, forget_loss(problem, state.module, engine)):
        problem.warn(sentence)
    return Run(state, method, history, dict(engine.clocks), aim)


def _choose_layout(method: Method, problem: Problem, engine: Engine) -> None:
    """Lays a convolutional module out as it is trained faster; not one that takes no samples, or fills the memory."""
    module = problem.subject.module
    large = sum(parameter.numel() for parameter in module.parameters()) >= base.LARGE
    if method.needs_samples and not large and prefers_channels_last(module, engine):
        batch = next(problem.forget.once(problem.task, "fisher", limit=TRIED, batch_size=TRIED))
        few = {name: value[:TRIED] for name, value in batch.items()}
        problem.note(lay_channels_last_(module, problem.task, few, engine))


def _steps(
    method: Method,
    state: State,
    engine: Engine,
    first: int,
    history: list[dict[str, Any]],
    checkpoints: Checkpoints | None,
    evaluate: Watch | None,
    evaluate_every: int,
    title: str,
    callbacks: Sequence[Callback],
) -> None:
    saver = _Saver(checkpoints, state, engine, history)
    saver.save(first)
    with engine.progress(title, method.total, first) as bar:
        for k in range(first, method.total):
            try:
                with engine.clock("steps"), engine.seeded(seed_of(state.problem.seed, "step", k)):
                    record = {"step": k, **method.step(state, k)}
            except (Diverged, ArithmeticError) as error:  # Python's own numbers leave their range by errors
                raise Diverged(f"{method.name}, step {k} of {method.total}: {error} {saver.restore()}") from error
            bar.advance(" ".join(f"{n} {v:.3g}" for n, v in record.items() if n.endswith("loss")))
            for callback in callbacks:
                callback.on_step(k + 1, method.total, dict(record))
            if evaluate and evaluate_every and (k + 1) % evaluate_every == 0:
                with engine.clock("evaluation"):
                    measured = _evaluate(evaluate, state, k + 1)
                record |= measured
                for callback in callbacks:
                    callback.on_evaluate(title, dict(measured))
            history.append(record)
            saver.maybe(k + 1, method.total)
    if not _finite(state.module.state_dict(), engine):  # the last loss was finite, what its step made of them is not
        raise Diverged(f"{method.name}: the last step made weights that are not finite. {saver.restore()}")


def _evaluate(evaluate: Watch, state: State, step: int) -> dict[str, float]:
    """Measures the module that the run would give now, divided weights gathered for as long."""
    if state.divided is None:
        return evaluate(state.result, step)
    with replace(state.divided, module=state.result).gathered() as whole:
        return evaluate(whole, step)


def _finite(weights: dict[str, Tensor], engine: Engine) -> bool:
    """Whether all weights are finite, of divided ones every process's parts."""
    parts = local_parts(w for w in weights.values() if w.is_floating_point())
    finite = all(bool(torch.isfinite(part).all()) for part in parts)
    if not any(is_divided(w) for w in weights.values()):
        return finite
    bad = torch.tensor(float(not finite), device=engine.device)
    engine.all_reduce_([bad])
    return not bool(bad)


def _threads(count: int) -> str:
    return "one thread" if count == 1 else f"{count} threads"


@dataclass(eq=False)
class _Saver:
    """Keeps the last good state: on disk every so often, and its weights in memory for when a run diverges."""

    checkpoints: Checkpoints | None
    state: State
    engine: Engine
    history: list[dict[str, Any]]
    good: tuple[int, dict[str, Tensor]] | None = None
    last: float = 0.0
    took: float = 0.0

    def maybe(self, step: int, total: int) -> None:
        """Saves when the time has come; keeps weights every tenth of the run.

        Of a large model the state takes long to write: a twentieth of the run at most goes into that.
        """
        waited = self._waited()
        if self.checkpoints and self.large and waited < SHARE * self.took:
            return
        if self.checkpoints and waited >= self.checkpoints.every:
            self.save(step)
        elif step % max(1, total // 10) == 0:
            self.save(step) if self.checkpoints else self.keep(step)

    def _waited(self) -> float:
        """Seconds since the last saved state; the same in all processes where all must take part in saving."""
        waited = torch.tensor(time.monotonic() - self.last, dtype=torch.float64)
        if self.state.divided is not None:
            waited = waited.to(self.engine.device)
            self.engine.broadcast_([waited])
        return float(waited)

    def keep(self, step: int) -> bool:
        """Remembers these weights, unless they are not finite, which it says; those that nobody trains are not copied.

        Of a large model there is no copy in memory: beside two optimisers it would not fit.
        """
        weights = {
            name: tensor.detach()
            for name, tensor in self.state.module.state_dict(keep_vars=True).items()
            if tensor.requires_grad or not isinstance(tensor, nn.Parameter)
        }
        if not _finite(weights, self.engine):
            return False
        if self.large:
            return True
        if self.good is None:
            self.good = step, {name: tensor.clone() for name, tensor in weights.items()}
            return True
        for name, kept in self.good[1].items():  # in place, or for a moment there would be two copies
            kept.copy_(weights[name])
        self.good = step, self.good[1]
        return True

    @property
    def large(self) -> bool:
        """Whether so many weights are trained that memory is short."""
        return sum(parameter.numel() for parameter in self.state.parameters) >= base.LARGE

    def save(self, step: int) -> None:
        """Writes the whole state, from the main process."""
        finite = self.keep(step)
        started = self.last = time.monotonic()
        if self.checkpoints is None or not finite:
            return
        state = self.state.gathered_dict() if self.engine.is_main or self.state.divided is not None else {}
        if not self.engine.is_main:
            return
        problem = self.state.problem
        content = {
            "fingerprint": self.checkpoints.fingerprint,
            "step": step,
            "state": state,
            "memo": problem.memo,
            "notes": problem.notes,
            "warnings": problem.warnings,
            "clocks": dict(self.engine.clocks),
            "threads": torch.get_num_threads(),
            "history": [json.dumps(record) for record in self.history],
        }
        _write(self.checkpoints.path, content)
        self.last = time.monotonic()
        self.took = self.last - started

    def restore(self) -> str:
        """Puts the last good weights back and says which they are."""
        if self.good is None and self.checkpoints and self.checkpoints.path.exists():
            saved = torch.load(self.checkpoints.path, map_location="cpu", weights_only=True, mmap=True)
            self.good = saved["step"], saved["state"]["module"]
        if self.good is None:
            return "No earlier weights are known to be good" + (
                ": of a model as large as this none are kept in memory. Give a folder for checkpoints."
                if self.large
                else "."
            )
        step, weights = self.good
        self.state.load_weights(weights, strict=False)
        where = f" and {self.checkpoints.path} holds the whole run at that point" if self.checkpoints else ""
        return f"The model was put back to its last good weights, after step {step}{where}."


def _write(path: Path, content: dict[str, Any]) -> None:
    """Saves piece by piece, since a large run does not fit into memory a second time; whole or not at all."""
    with open_sealed(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # what torch raises over the error of a file that cannot be written to
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
