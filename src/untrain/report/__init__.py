"""What a run or a comparison says: tables, and one self-contained HTML page, made from the files of its folder."""

from untrain.report.comparison import comparison_tables, terminal
from untrain.report.comparison_page import write_comparison_report
from untrain.report.generator_verdict import generator_verdict
from untrain.report.page import write_report
from untrain.report.tables import Table, comparison_table
from untrain.report.verdict import Verdict, comparison_verdict, verdict

__all__ = [
    "Table",
    "Verdict",
    "comparison_table",
    "comparison_tables",
    "comparison_verdict",
    "generator_verdict",
    "terminal",
    "verdict",
    "write_comparison_report",
    "write_report",
]
