"""The report: tables beside published numbers, and HTML for review."""

from adlib.report.banner import banner
from adlib.report.facts import fact_table, metric_table, paper_banner, published_table, run_table, warnings_of
from adlib.report.tables import comparison, show_comparison

__all__ = [
    "banner",
    "comparison",
    "fact_table",
    "metric_table",
    "paper_banner",
    "published_table",
    "run_table",
    "show_comparison",
    "warnings_of",
]
