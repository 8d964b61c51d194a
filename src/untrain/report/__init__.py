"""What a run says: a table for the terminal and one self-contained HTML page, made from the files of a run folder."""

from untrain.report.page import write_report
from untrain.report.tables import Table, Verdict, comparison_table, verdict

__all__ = ["Table", "Verdict", "comparison_table", "verdict", "write_report"]
