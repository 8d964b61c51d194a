"""What a run or a comparison says: tables, and one self-contained HTML page. Results and presentation make both."""

from untrain.report.page import write_latex, write_report
from untrain.report.presentation import Distance, Measure, Presentation
from untrain.report.results import Results, task_of
from untrain.report.tables import Table, comparison_tables, run_table, terminal
from untrain.report.verdict import Verdict

__all__ = [
    "Distance",
    "Measure",
    "Presentation",
    "Results",
    "Table",
    "Verdict",
    "comparison_tables",
    "run_table",
    "task_of",
    "terminal",
    "write_latex",
    "write_report",
]
