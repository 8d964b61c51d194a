"""The command line: `untrain run RECIPE.yaml [--key value …]` and its parts."""

import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from untrain.allocator import keep_freed_memory
from untrain.errors import FolderError, SettingError, UnknownName, UntrainError, speak_of_flags, unknown
from untrain.folders import exclusive_lock
from untrain.permissions import Permissions, flag_of
from untrain.progress import use_known_signs
from untrain.signals import Stopped, stoppable

if TYPE_CHECKING:
    from untrain.domain import Domain
    from untrain.report.latex import LatexForm
    from untrain.runs.recipe import Recipe

USAGE = """\
usage: untrain COMMAND [RECIPE.yaml] [--key value …]

  run       everything a recipe asks for: train, unlearn, evaluate, report
  plan      memory, passes, images and disk that a run will need; nothing is started; see untrain plan --help
  train     the original model, and the retrained ones that show what forgetting should give
  unlearn   the recipe's methods on the original model (trained, or from --model.checkpoint)
  evaluate  measure every model that the run folder holds, and report
  compare   every method on several seeds and forget sets; see untrain compare --help
  audit     whether forgotten samples can still be told from never-seen ones; see untrain audit --help
  sample    what a generator makes: images of its classes, or of a table of prompts; see untrain sample --help
  export    what a method changed, as a LoRA or an exact difference; see untrain export --help
  push      upload a run's model, or its LoRA, to the Hugging Face hub; see untrain push --help
  log       all requests to forget that a model has met, by run folders; see untrain log --help
  report    make report.html of a run's or a comparison's folder again: untrain report FOLDER [--latex FORM]
  list      known tasks, methods, data sources, models, and the recipes of this folder
  schema    the JSON schema of recipes, by which editors complete them: untrain schema [--out FILE]

Every field of a recipe is a flag, such as --data.name digits or --methods.sfron.alpha 2;
`untrain run RECIPE.yaml --help` explains each. Without a recipe, defaults hold and sfron is the method.
A run folder stands for the recipe that is kept in it: untrain run FOLDER --resume.

  --method NAME        run this method instead of the recipe's; MODULE:CLASS for one of your own
  --task NAME          what the model was trained on; MODULE:CLASS for a domain of your own
  --report-to TRACKER  log steps to tensorboard or wandb, too
  --latex FORM         of report: write table.tex too; "wide" scales to a page, "compact" fits one of two columns
  --resume             go on with what the run folder holds
  --allow-code         run the code that a recipe or run folder names as MODULE:NAME
  --allow-links        follow links that lead out of a folder of data or of a model
  --allow-large        do work beyond the limits that a recipe is held to
  --allow-reading      let other users of the machine read the run folder that is made
  --debug              show where in the code a failure happened
"""

COMPARE_USAGE = """\
usage: untrain compare RECIPE.yaml [--jobs n | --cluster ADDRESS] [--processes k] [--resume] [--key value …]

Runs every method of a recipe on the seeds and forget sets of its section `compare`, each with an original and at least
two retrained models, and reports mean, spread, confidence, noise floor and ranks. With `compare.audit`, the run of the
first seed on each forget set is audited, too: see untrain audit --help. What is finished is never run again.

  --jobs n           n cells (a model, a search, an evaluation, …) side by side on this machine, which share its cores
  --cluster ADDRESS  of a Dask scheduler, whose workers take the cells instead; it needs the extra `cluster`
  --processes k      each cell runs as k processes
  --cell KEY         run this one cell here, such as random-10/seed-0/sfron
  --latex FORM       of comparison.tex: "wide" scales to a page, the default; "compact" fits one of two columns
  --resume           go on with the comparison that the folder holds

Every field of a recipe is a flag too, such as --compare.trials 5 or --compare.seeds '[0, 1]': untrain run --help.
"""

AUDIT_USAGE = """\
untrain audit FOLDER [flags]: whether forgotten samples can still be told from samples that were never seen

FOLDER is a finished run whose recipe trains its original, or a cell's folder of a comparison. Twins of the original are
trained on coins' choice of the samples, every method is told to forget these, and an attack tries to tell them from
the others. Where a class is forgotten whole, unlearned models are held against retrained ones instead; of a
text-to-image run the models themselves are attacked, to bring back what was forgotten. The answer is a
card and a verdict for each method, and FOLDER/audit/audit.json.

  --methods A,B      these methods of the run; all without it
  --design NAME      coins, refs, single or attacks, see docs/audit.md; without it, as what is forgotten has it
  --twins N          so many twins; without it 16 for samples, at least 4; 6 for classes and 5 for generators of them,
                     at least 5. More of them find less. 0: none, the run's own models are asked, and little can be said
  --references N     so many models retrained without the samples, in which nothing may be found; without it 4 for
                     samples, and for classes as many as twins
  --seed N           of samples, coins and twins; 0 without it
  --audit.NAME VALUE how much an attack on generators may do: untrain audit FOLDER --help lists the names
  --keep             keep the twins' weights once they were asked
  --planted N        plant N images with noise of their own in each twin: is it remembered? 64 are usual
  --per-sample       write FOLDER/audit/per-sample.csv: it tells of each sample how it shows, and so who was trained on
  --no-relearning    relearn nothing: an audit of samples takes less time, and does not look for what lies dormant
  --exchangeable     of --twins 0: test data and forgotten data were drawn from one source at random
  --jobs N           N cells side by side on this machine
  --processes N      each cell as N processes, on CPUs or as many GPUs
  --cluster ADDRESS  a Dask scheduler runs the cells
  --cell KEY         run this one cell here, such as twins/twin-03/sfron
  --resume           go on with the audit that the folder holds
  --self-test        simulate models with known traces, half a minute, and say what the audit finds
"""

EXPORT_USAGE = """\
untrain export FOLDER --lora | --delta | --whole [flags]: what a method of a run changed, or the model itself

FOLDER is a finished run of a recipe.

  --lora         a LoRA, best of its rank: FOLDER/MODEL-lora, which pipe.load_lora_weights loads; of other models than
                 pipelines an adapter that peft loads. It says which share of the change it holds
  --rank N       of the LoRA, at most; 16 without it. Where the change is of less, all of it is held
  --kohya        the LoRA of a UNet under the names of kohya's trainer, which most interfaces load
  --delta        the exact new values of all that changed: FOLDER/MODEL-delta/delta.safetensors
  --whole        the model itself, where the run keeps what changed alone: in the place of that in FOLDER, so that the
                 original may be deleted; with --out it is written there instead, to a folder, or of a file that ends
                 in .safetensors the weights alone
  --model NAME   which model of the run; without it, the only unlearned one
  --out PATH     write there
"""

PLAN_USAGE = """\
usage: untrain plan RECIPE.yaml [--memory 24GB] [--json] [--key value …]

Says what `untrain run` of the recipe will need: memory by part and stage, passes through models, images to make, and
disk. Data are read; no model is made, and of a pipeline's folder the configurations alone are looked at. What is a
guess is said to be one.

  --memory SIZE  of the card or machine, such as 24GB or 80GiB: does each stage fit?
  --json         as JSON, sizes in bytes

Every field of a recipe is a flag too: untrain run --help.
"""

PUSH_USAGE = """\
usage: untrain push FOLDER --to USER/NAME [flags]: uploads a model of a run to the Hugging Face hub

FOLDER is a finished run of a recipe. What is uploaded is the model's own folder, as diffusers or transformers loads it,
with its card; of a model without one its weights, and a card. Nothing else of the run leaves this machine. You must be
logged in: hf auth login.

  --to USER/NAME  the repository; it must be new
  --model NAME    which model of the run; without it, the only unlearned one
  --lora          upload what the method changed as a LoRA instead
  --rank N        of the LoRA, at most; 16 without it
  --public        let everybody see the repository; without it, it is private
  --update        the repository may be there already
  --message TEXT  of the commit
"""

LOG_USAGE = """\
usage: untrain log RUNS… [--ids] [--hash-ids] [--json | --csv]

Lists the requests that a model has met, each in a run folder, in the order in which one goes on from the weights of the
one before: when, what was asked for, from which weights to which, by which method, the report's verdict, and whether
files are still on disk. RUNS are run folders in any order, or folders of these.

  --ids        all ids of each request, not the first few alone
  --hash-ids   salted hashes instead of ids; the salt stays in the run folders
  --json       as JSON
  --csv        as csv, a row for each model that was made
  --task NAME  MODULE:CLASS of a domain of your own, by which verdicts are worded
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code.

    0: done; 1: a failure that was foreseen; 2: no command given; 3: one that was not; 129, 130, 143: ended by SIGHUP,
    an interrupt or SIGTERM; 141: nobody reads the output any more.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started the command
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, for as long as the process
        use_known_signs(getattr(sys, name))
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug, resume = _take(words, "--debug"), _take(words, "--resume")
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if words else 2
    keep_freed_memory()
    for library in ("TRANSFORMERS", "DIFFUSERS"):  # their advice on what else could be installed is for developers
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    try:
        with stoppable(), speak_of_flags(), warnings.catch_warnings():
            warnings.showwarning = _show_warning
            _check_place()
            if words[0] not in COMMANDS:
                raise UnknownName(f"{unknown('command', words[0], COMMANDS)} See untrain --help.")
            COMMANDS[words[0]](words[1:], resume)
            sys.stdout.flush()
            return 0
    except SystemExit as error:  # of --help
        return int(error.code or 0)
    except UntrainError as error:
        if debug:
            raise
        print(f"untrain: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        number = error.signal if isinstance(error, Stopped) else signal.SIGINT
        what = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
        with suppress(OSError):  # of a terminal that is gone
            print(f"untrain: {what}; {_GOING_ON.get(words[0], _RESUME)}", file=sys.stderr, flush=True)
        return 128 + number
    except BrokenPipeError:  # whoever read the output has enough of it
        _drop_output()
        return 141
    except MemoryError:
        if debug:
            raise
        print(_OUT_OF_MEMORY, file=sys.stderr)
        return 1
    except OSError as error:
        if debug or error.filename is not None:
            raise
        _drop_output()
        print(f"untrain: the output cannot be written: {error.strerror or error}. Print it elsewhere.", file=sys.stderr)
        return 1
    except Exception as error:
        if debug:
            raise
        print(
            f"untrain: unforeseen {type(error).__name__}: {error}\nRun it again with --debug for details.",
            file=sys.stderr,
        )
        return 3


_OUT_OF_MEMORY = (
    "untrain: the memory of this machine, or what of it a process may have, is used up. Ask for smaller batches "
    "(--batch_size), smaller images or a smaller model; --resume goes on from the last checkpoint."
)


def _check_place() -> None:
    """Refuses to begin where no file can be found: libraries end the process then, in words of their own."""
    try:
        os.getcwd()
    except OSError as error:
        raise FolderError(f"the working directory is gone: {error.strerror}. Change to another one.") from error


def _drop_output() -> None:
    """Lets nothing more be written where writing fails, not even when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_RESUME = "--resume goes on from the last checkpoint."
_GOING_ON = {
    "sample": "the same command again makes the images that are missing.",
    **dict.fromkeys(("plan", "push", "log", "report", "list", "schema"), "nothing was changed."),
    **dict.fromkeys(("unlearn", "evaluate"), "the same command again goes on from the last checkpoint."),
}
"""What goes on with a command that was ended."""


def _show_warning(message: Warning | str, *details: Any, **more: Any) -> None:
    print(f"untrain: warning: {message}", file=sys.stderr)


def _take(words: list[str], flag: str) -> bool:
    found = flag in words
    while flag in words:
        words.remove(flag)
    return found


def _read(words: Sequence[str], command: str) -> "Recipe":
    """Reads the recipe that a command line names, with its flags; shows the help where it is asked for."""
    from untrain.runs.recipe import read, recipe_fields

    words = list(words)
    permissions = _permissions(words)
    path = words.pop(0) if words and not words[0].startswith("-") else None
    if any(word in ("-h", "--help") for word in words):
        from untrain.runs.flags import recipe_help

        shown = recipe_fields(path, [word for word in words if word not in ("-h", "--help")], permissions=permissions)
        print(recipe_help(shown, command))
        raise SystemExit(0)
    return read(path, words, permissions=permissions)


def _permissions(words: list[str]) -> Permissions:
    """Takes the flags that allow something out of the words."""
    return Permissions(**{each.name: _take(words, flag_of(each.name)) for each in fields(Permissions)})


def _run_stages(name: str, words: Sequence[str], resume: bool) -> None:
    words = list(words)
    tracker = _value(words, "--report-to")
    recipe = _read(words, name.removesuffix("_recipe"))
    from contextlib import nullcontext

    from untrain.callbacks import TrackerCallback
    from untrain.runs import stages

    how: dict[str, Any] = {"folder": recipe.folder / "trackers", "name": recipe.name, "settings": recipe.plain()}
    with nullcontext() if tracker is None else TrackerCallback(tracker, **how) as callback:
        getattr(stages, name)(recipe, resume=resume, callbacks=() if callback is None else (callback,))


def _run(words: Sequence[str], resume: bool) -> None:
    _run_stages("run_recipe", words, resume)


def _plan(words: Sequence[str], resume: bool) -> None:
    words = list(words)
    if any(word in ("-h", "--help") for word in words):
        print(PLAN_USAGE)
        return
    as_json, size = _take(words, "--json"), _value(words, "--memory")
    recipe = _read(words, "plan")
    from untrain.runs.plan import plan_recipe, plan_text, read_memory

    memory = None if size is None else read_memory(size)
    print(plan_text(plan_recipe(recipe, memory), as_json=as_json))


def _train(words: Sequence[str], resume: bool) -> None:
    _run_stages("train_recipe", words, resume)


def _unlearn(words: Sequence[str], resume: bool) -> None:
    _run_stages("unlearn_recipe", words, resume)


def _evaluate(words: Sequence[str], resume: bool) -> None:
    _run_stages("evaluate_recipe", words, resume)


def _compare(words: Sequence[str], resume: bool) -> None:
    words = list(words)
    if any(word in ("-h", "--help") for word in words):
        print(COMPARE_USAGE)
        return
    jobs, processes = (_count(words, flag) for flag in ("--jobs", "--processes"))
    cluster, cell = (_value(words, flag) for flag in ("--cluster", "--cell"))
    latex = _latex_form(words) or "wide"
    if cell is not None:
        from untrain.compare.pool import end_with_parent

        end_with_parent()
    recipe = _read(words, "compare")
    from untrain.audit.compared import RunAudits
    from untrain.compare import compare_cell, compare_recipe

    if cell is not None:
        compare_cell(recipe, cell, RunAudits())
    else:
        how: dict[str, Any] = {"jobs": jobs, "cluster": cluster, "processes": processes, "resume": resume}
        compare_recipe(recipe, latex=latex, audits=RunAudits(), **how)


def _sample(words: Sequence[str], resume: bool) -> None:
    from untrain.runs.sampling import sample_command

    words = list(words)
    permissions = _permissions(words)
    sample_command(words, permissions)


def _audit(words: Sequence[str], resume: bool) -> None:
    words = list(words)
    if any(word in ("-h", "--help") for word in words):
        print(AUDIT_USAGE)
        if words and os.path.isdir(words[0]):
            from untrain.audit.command import show_options

            show_options(Path(words[0]))
        return
    if _take(words, "--self-test"):
        from untrain.audit.command import run_self_test

        run_self_test()
        return
    permissions = _permissions(words)
    cell, cluster, methods, design = (_value(words, flag) for flag in ("--cell", "--cluster", "--methods", "--design"))
    jobs, processes = (_count(words, flag) for flag in ("--jobs", "--processes"))
    from untrain.audit.options import SWITCHES, take_options
    from untrain.runs.flags import flag_of

    plan: dict[str, Any] = {"design": design, "seed": _count(words, "--seed", 0, 0)}
    plan |= {name: _take(words, flag_of(name)) for name in SWITCHES}
    plan |= {name: _count(words, f"--{name}", None, 0) for name in ("twins", "references")}
    plan |= {"planted": _count(words, "--planted", 0, 0)}
    if methods is not None:
        plan["methods"] = methods.split(",")
    plan["options"] = take_options(words)
    folder = _one_folder(words, "audit", "untrain audit FOLDER. See untrain audit --help")
    if cell is not None:
        from untrain.compare.pool import end_with_parent

        end_with_parent()
    from untrain.audit.command import audit_folder

    how: dict[str, Any] = {"jobs": jobs, "processes": processes, "cluster": cluster, "resume": resume, "cell": cell}
    audit_folder(folder, permissions, plan, **how)


def _value(words: list[str], flag: str) -> str | None:
    """Takes `--flag value` or `--flag=value` out of the words; None where it is not there.

    Raises:
        SettingError: if there is no value.
    """
    for i, word in enumerate(words):
        if word == flag:
            if i + 1 == len(words) or words[i + 1].startswith("--"):
                raise SettingError(f"{flag} needs a value: see untrain --help.")
            del words[i]
            return words.pop(i)
        if word.startswith(f"{flag}="):
            return words.pop(i).partition("=")[2]
    return None


def _latex_form(words: list[str]) -> "LatexForm | None":
    """Takes the form of tables for LaTeX out of the words; None where none is asked for."""
    forms: dict[str | None, LatexForm | None] = {None: None, "wide": "wide", "compact": "compact"}
    form = _value(words, "--latex")
    if form not in forms:
        raise SettingError(f"--latex must be wide or compact, not {form!r}.")
    return forms[form]


@overload
def _count(words: list[str], flag: str, default: int = 1, least: int = 1) -> int: ...
@overload
def _count(words: list[str], flag: str, default: None, least: int = 1) -> int | None: ...
def _count(words: list[str], flag: str, default: int | None = 1, least: int = 1) -> int | None:
    value = _value(words, flag)
    if value is not None and not (value.isdecimal() and least <= int(value) < 1 << 63):
        raise SettingError(f"{flag} must be a whole number from {least}, not {value!r}.")
    return default if value is None else int(value)


def _report(words: Sequence[str], resume: bool) -> None:
    words = list(words)
    if any(word in ("-h", "--help") for word in words):
        print(USAGE)
        return
    task, form = _value(words, "--task"), _latex_form(words)
    folder = _one_folder(words, "report", "untrain report FOLDER")
    from untrain.report import write_latex, write_report

    with exclusive_lock(folder):
        presentation = _domain_of(folder, task).presentation
        path = write_report(folder, presentation)
        table = None if form is None else write_latex(folder, presentation, form)
    print(f"report: {path}" + (f"\ntable: {table}" if table else ""))


def _log(words: Sequence[str], resume: bool) -> None:
    words = list(words)
    if not words or any(word in ("-h", "--help") for word in words):
        print(LOG_USAGE)
        return
    task, whole, hashed = _value(words, "--task"), _take(words, "--ids"), _take(words, "--hash-ids")
    forms = [form for form in ("json", "csv") if _take(words, f"--{form}")]
    if len(forms) > 1:
        raise SettingError("give --json or --csv, not both.")
    strange = [word for word in words if word.startswith("-")]
    if strange or not words:
        raise SettingError(f"untrain log does not know {strange[0]}." if strange else "untrain log needs run folders.")
    from untrain.runs.log import FORMS, read_log

    folders = [Path(word) for word in words]
    requests = read_log(folders, lambda folder: _domain_of(folder, task).presentation, hashed=hashed)
    print(FORMS[(*forms, "text")[0]](requests, whole=whole), end="")


def _export(words: Sequence[str], resume: bool) -> None:
    words = list(words)
    if not words or any(word in ("-h", "--help") for word in words):
        print(EXPORT_USAGE)
        return
    permissions, model, out = _permissions(words), _value(words, "--model"), _value(words, "--out")
    is_delta, rank = _take(words, "--delta"), _count(words, "--rank", 16)
    is_lora, kohya, is_whole = _take(words, "--lora"), _take(words, "--kohya"), _take(words, "--whole")
    if is_delta + is_lora + is_whole != 1 or (kohya and not is_lora):
        raise SettingError(
            "give --lora (with --rank, --kohya), --delta or --whole: one of the three. See untrain export --help."
        )
    folder = _one_folder(words, "export", "untrain export FOLDER --lora")
    from untrain.runs.export import export_delta, export_lora, export_whole

    with exclusive_lock(folder):
        if is_delta:
            print(export_delta(folder, model, out=out, permissions=permissions))
        elif is_whole:
            print(export_whole(folder, model, out=out, permissions=permissions))
        else:
            print(export_lora(folder, model, rank=rank, kohya=kohya, out=out, permissions=permissions))


def _one_folder(words: Sequence[str], command: str, example: str) -> Path:
    """The run folder that is all that is left of a command's words.

    Raises:
        SettingError: if they are more or others. FolderError: if there is none.
    """
    if len(words) != 1 or words[0].startswith("-"):
        raise SettingError(f"untrain {command} needs one run folder: {example}.")
    folder = Path(words[0])
    if not os.path.isdir(folder):
        raise FolderError(f"there is no run folder {folder}. Check the path.")
    return folder


def _push(words: Sequence[str], resume: bool) -> None:
    words = list(words)
    if not words or any(word in ("-h", "--help") for word in words):
        print(PUSH_USAGE)
        return
    permissions, repo = _permissions(words), _value(words, "--to")
    task, model, message = (_value(words, flag) for flag in ("--task", "--model", "--message"))
    how: dict[str, Any] = {name: _take(words, f"--{name}") for name in ("lora", "public", "update")}
    rank = _count(words, "--rank", 16)
    if repo is None:
        raise SettingError("untrain push needs a repository: untrain push FOLDER --to USER/NAME.")
    folder = _one_folder(words, "push", "untrain push FOLDER --to USER/NAME")
    from untrain.runs.push import push_run

    presentation = _domain_of(folder, task).presentation
    with exclusive_lock(folder):
        address = push_run(
            folder, repo, presentation, model, rank=rank, message=message, permissions=permissions, **how
        )
    print(address)


def _domain_of(folder: Path, task: str | None) -> "type[Domain]":
    """The domain of a folder's task: what the command line says, else by the name that the folder has; never code."""
    from untrain import registry
    from untrain.report import task_of
    from untrain.runs.recipe import task_entry

    if task is not None:
        return task_entry(task).domain
    name = task_of(folder) or registry.DEFAULT_TASK
    from untrain.domain import PlainDomain

    if name == PlainDomain.name:
        return PlainDomain
    try:
        return registry.domain(name)
    except UnknownName as error:
        raise UnknownName(f"{folder}: {error} A class of your own: --task MODULE:CLASS.") from error


def _list(words: Sequence[str], resume: bool) -> None:
    from untrain.listing import list_known

    if words and words[0] not in ("-h", "--help"):
        raise SettingError("untrain list takes nothing more.")
    for group, entries in list_known().items():
        print(f"{group}:")
        for name, description in entries.items():
            print(f"  {name:<22} {description}")


def _schema(words: Sequence[str], resume: bool) -> None:
    from untrain.runs.schema import schema_command

    schema_command(words)


COMMANDS: dict[str, Callable[[Sequence[str], bool], None]] = {
    "run": _run,
    "plan": _plan,
    "train": _train,
    "unlearn": _unlearn,
    "evaluate": _evaluate,
    "compare": _compare,
    "audit": _audit,
    "sample": _sample,
    "export": _export,
    "push": _push,
    "log": _log,
    "report": _report,
    "list": _list,
    "schema": _schema,
}

if __name__ == "__main__":
    sys.exit(main())
