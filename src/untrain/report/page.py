"""One self-contained HTML page about a run or a comparison, so it can be made again any time from the folder."""

from pathlib import Path
from typing import TYPE_CHECKING

from untrain.errors import FolderError
from untrain.io import write_bytes
from untrain.report.html import render
from untrain.report.requests import show_requests
from untrain.report.results import Results

if TYPE_CHECKING:
    from untrain.report.presentation import Presentation


def write_report(given: Results | str | Path, presentation: "Presentation") -> Path:
    """Writes `report.html` into the folder of a run or a comparison, whole or not at all.

    Args:
        given: the results, or the folder that they are read from: `evaluation.json` or `comparison.json`,
            `history.jsonl`, `manifest.json` and `config.yaml`, as far as they are there. The reports of a comparison's
            cells are linked where they are there.
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
    write_bytes(results.folder / "report.html", render_page(results, presentation).encode("utf-8", "replace"))
    return results.folder / "report.html"


def render_page(results: Results, presentation: "Presentation") -> str:
    """Renders the whole page as HTML."""
    made = [section for make in presentation.sections(results) if (section := make(results)) is not None]
    if (requests := show_requests(results)) is not None:
        made.insert(next((i + 1 for i, section in enumerate(made) if section.key == "comparison"), 1), requests)
    return render(
        "page.html.j2", kind=f"Unlearning {'comparison' if results.compared else 'report'}", subject=results.name,
        facts=presentation.facts(results), sections=made,
        version=results.manifest.get("untrain"),
    )  # fmt: skip
