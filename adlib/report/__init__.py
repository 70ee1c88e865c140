"""The report: tables beside published numbers, and HTML for review."""

from adlib.report.banner import banner
from adlib.report.facts import (
    category_table,
    fact_table,
    metric_table,
    paper_banner,
    published_table,
    run_table,
    warnings_of,
)
from adlib.report.tables import comparison, show_comparison
from adlib.report.training_preview import paper_training_preview, training_preview

__all__ = [
    "banner",
    "category_table",
    "comparison",
    "fact_table",
    "metric_table",
    "paper_banner",
    "paper_training_preview",
    "published_table",
    "run_table",
    "show_comparison",
    "training_preview",
    "warnings_of",
]
