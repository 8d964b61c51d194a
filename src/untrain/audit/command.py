"""The command `untrain audit`: the card in a terminal."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from untrain.audit.cells import run_audit_cell
from untrain.audit.designs import plan_of
from untrain.audit.finding import Audit
from untrain.audit.plan import AUDIT
from untrain.audit.run import AUDIT_FILE, audit_run
from untrain.audit.selftest import self_test
from untrain.engine import Engine
from untrain.errors import UntrainError
from untrain.permissions import Permissions
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
        plan: arguments of `plan_of`.
        cell: the only cell to run; None: all, and the cards.
        how: where the cells run, arguments of `audit_run`.
    """
    recipe = read(folder, permissions=permissions)
    if cell is not None:
        Engine.start(recipe.device, recipe.precision)
        run_audit_cell(plan_of(recipe, **plan), cell)
        return
    audit = audit_run(plan_of(recipe, **plan), **how)
    print_cards(audit)
    say = partial(Console().print, highlight=False, soft_wrap=True)
    say(f"audit: {folder / AUDIT / AUDIT_FILE}")


def print_cards(audit: Audit) -> None:
    """Prints the card of every method, its verdict last."""
    console = Console()
    wide = console.width >= WIDE
    for name, finding in audit.findings.items():
        table = Table(title=name, title_justify="left", box=None, pad_edge=False)
        for column in ("", "value", "95 % interval", "target", *(("original",) if wide else ())):
            table.add_column(column, overflow="fold")
        for row in finding.card:
            table.add_row(row.name, row.value, row.interval, row.target, *((row.original,) if wide else ()))
        console.print(table)
        console.print("\n".join(finding.below), highlight=False)
        verdict = finding.verdict
        kind = verdict.kind if verdict.subkind is None else f"{verdict.kind}, {verdict.subkind}"
        console.print(f"[bold]{kind}[/bold]: {verdict.sentence}\n", highlight=False)


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
