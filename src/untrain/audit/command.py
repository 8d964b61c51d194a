"""The command `untrain audit`: the card in a terminal."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from untrain.audit.card import NOTHING
from untrain.audit.cells import run_audit_cell
from untrain.audit.designs import plan_of
from untrain.audit.options import options_help, read_options
from untrain.audit.run import audit_run, is_finished
from untrain.audit.selftest import self_test
from untrain.engine import Engine
from untrain.errors import UntrainError
from untrain.permissions import Permissions
from untrain.report import write_report
from untrain.report.audit_file import AUDIT, AUDIT_FILE, AUDIT_PAGE, read_audit
from untrain.report.audited import AuditedMethod
from untrain.runs.recipe import read

WIDE = 100
"""Columns of a terminal in which the whole table fits."""


def audit_folder(
    folder: Path, permissions: Permissions, plan: Mapping[str, Any], *, cell: str | None = None, **how: Any
) -> None:
    """Audits a run folder and prints each method's card, or runs one cell of its audit.

    Args:
        folder: the run's.
        permissions: what the person at the keyboard allows.
        plan: arguments of `plan_of`; options as the texts of their values.
        cell: the only cell to run; None: all, and the cards.
        how: where the cells run, arguments of `audit_run`.
    """
    recipe = read(folder, permissions=permissions)
    plan = {**plan, "options": read_options(recipe.domain, plan["options"])}
    if cell is not None:
        Engine.start(recipe.device, recipe.precision)
        run_audit_cell(plan_of(recipe, **plan), cell)
        return
    planned = plan_of(recipe, **plan)
    say = partial(Console().print, highlight=False, soft_wrap=True)
    if is_finished(planned):
        say(f"nothing to do: {planned.folder} holds this audit already.\n")
        write_report(recipe.folder, recipe.domain.presentation)
    else:
        audit_run(planned, **how)
    audit = read_audit(recipe.folder, {})
    print_cards(() if audit is None else audit.methods)
    for name in (AUDIT_FILE, AUDIT_PAGE):
        say(f"audit: {folder / AUDIT / name}")
    say(f"report: {folder / 'report.html'}")


def show_options(folder: Path) -> None:
    """Prints the options of the audit of a run: how much its attacks may do."""
    lines = options_help(read(folder).domain)
    print("\n".join([f"Options of {folder}:", *lines] if lines else [f"The audit of {folder} has no options."]))


def print_cards(methods: Iterable[AuditedMethod]) -> None:
    """Prints the card of every method, its verdict last."""
    console = Console()
    for method in methods:
        console.print(card_table(method, console.width))
        console.print("\n".join(method.below), highlight=False, markup=False)
        kind = f"{method.kind}, {method.subkind}" if method.subkind else method.kind
        console.print(Text.assemble((kind, "bold"), f": {' '.join([method.sentence, *method.remarks])}\n"))


def card_table(method: AuditedMethod, width: int) -> Table:
    """Makes the card for a terminal; a narrow one has its interval under the value, and the original's beside it.

    Args:
        method: whose card.
        width: of the terminal, in columns.
    """
    wide = width >= WIDE
    table = Table(title=method.name, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", overflow="fold", min_width=min(20, width // 4))
    for column in ("value", *(("95 % interval",) if wide else ()), "target", "original"):
        table.add_column(column, overflow="fold")
    for row, value in zip(method.card, _aligned([row["value"] for row in method.card]), strict=True):
        cells = [value, row["interval"]] if wide else [_under(value, row["interval"])]
        target = row["target"] if wide else row["target"].replace(", ", ",\n")
        table.add_row(*map(Text, (row["name"], *cells, target, row["original"])))
    return table


def _under(value: str, interval: str) -> str:
    """Puts what stands beside a value under it: what is left, p, its interval."""
    head, _, rest = value.partition(", ")
    return "\n  ".join(text for text in (head, rest, interval) if text and text != NOTHING) or NOTHING


def _aligned(values: Sequence[str]) -> list[str]:
    """Puts the numbers at the head of values in one column, decimal point under decimal point."""
    heads = [re.match(r"[+\-−]?\d+", value) for value in values]
    wide = max((len(head[0]) for head in heads if head), default=0)
    return [
        value if head is None else " " * (wide - len(head[0])) + value
        for head, value in zip(heads, values, strict=True)
    ]


def run_self_test() -> None:
    """Prints what the audit says of models whose traces are known.

    Raises:
        UntrainError: if it says anything wrong.
    """
    failed = []
    for check in self_test():
        print(
            f"{'ok   ' if check.passed else 'WRONG'}  {check.name} {check.found} (must be {check.wanted})", flush=True
        )
        failed += [] if check.passed else [check.name]
    if failed:
        raise UntrainError(f"the audit is wrong on this machine: {'; '.join(failed)}. Do not use it; report it.")
