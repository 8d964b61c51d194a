"""One self-contained HTML page about a run or a comparison, so it can be made again any time from the folder."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from untrain.errors import FolderError
from untrain.io import write_bytes, write_text
from untrain.report.audit_file import AUDIT_PAGE, read_audit
from untrain.report.audit_page import render_audit, show_audit
from untrain.report.html import render
from untrain.report.latex import LatexForm
from untrain.report.requests import show_requests
from untrain.report.results import Results, as_mapping
from untrain.report.tables import latex_tables

if TYPE_CHECKING:
    from untrain.report.presentation import Presentation


def write_report(given: Results | str | Path, presentation: "Presentation") -> Path:
    """Writes `report.html` into the folder of a run or a comparison, and a run's `audit/audit.html` where it has one.

    Each page is written whole or not at all.

    Args:
        given: the results, or the folder that they are read from: `evaluation.json` or `comparison.json`,
            `history.jsonl`, `manifest.json` and `config.yaml`, as far as they are there. The reports of a comparison's
            cells are linked where they are there. The audit is always read from the folder.
        presentation: of the task.

    Returns:
        The page's path.

    Raises:
        UntrainError: if there is nothing to report, or a file cannot be read.
        FolderError: if the folder does not exist or cannot be written.
    """
    results = given if isinstance(given, Results) else Results.read(given)
    if results.folder is None:
        raise FolderError("these results are of no folder: give them one, where the page can be written.")
    folder = results.folder
    audit = None if results.compared else read_audit(folder, as_mapping(results.manifest.get("models")))
    if audit is not None:
        results = replace(results, audit=audit)
        page = render_audit(audit, results.name)
        write_bytes(audit.folder / AUDIT_PAGE, page.encode("utf-8", "replace"))
    write_bytes(folder / "report.html", render_page(results, presentation).encode("utf-8", "replace"))
    return folder / "report.html"


def write_latex(folder: str | Path, presentation: "Presentation", form: LatexForm) -> Path:
    """Writes `table.tex` into the folder of a run or a comparison: its tables for LaTeX, in one of their forms.

    Raises:
        UntrainError: if there is nothing to report, or a file cannot be read.
        FolderError: if the folder does not exist or cannot be written.
    """
    path = Path(folder) / "table.tex"
    write_text(path, latex_tables(Results.read(folder), presentation, form))
    return path


def render_page(results: Results, presentation: "Presentation") -> str:
    """Renders the whole page as HTML."""
    made = [section for make in presentation.sections(results) if (section := make(results)) is not None]
    if (requests := show_requests(results)) is not None:
        made.insert(next((i + 1 for i, section in enumerate(made) if section.key == "comparison"), 1), requests)
    if (audit := show_audit(results.audit)) is not None:
        made.insert(next((i + 1 for i, section in enumerate(made) if section.key == "limits"), 1), audit)
    return render(
        "page.html.j2", kind=f"Unlearning {'comparison' if results.compared else 'report'}", subject=results.name,
        asked=presentation.describe_request(results), sections=made,
        version=results.manifest.get("untrain"),
    )  # fmt: skip
