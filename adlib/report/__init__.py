"""The report: tables beside published numbers, and HTML for review."""

from adlib.report.banner import banner
from adlib.report.facts import (
    across_banner,
    baseline_table,
    category_table,
    fact_table,
    metric_table,
    paired_table,
    paper_banner,
    published_table,
    record_table,
    run_table,
    show_runs,
    time_table,
    warnings_of,
)
from adlib.report.labels import metric_label
from adlib.report.published_bars import published_bars
from adlib.report.rank_figures import critical_difference_diagrams, rank_heat_map
from adlib.report.ranks import (
    LOWER_IS_BETTER,
    blocks,
    dataset_means,
    order_agreement,
    rank_agreement,
    rank_tests,
    standing,
)
from adlib.report.region_breakdown import defect_table, region_table
from adlib.report.run_curves import operating_thresholds, run_curves
from adlib.report.run_details import (
    below_limits,
    pooled_table,
    real_defect_runs,
    recall_by_defect,
    segmentations,
    share_of_gap,
    stored_predictions,
)
from adlib.report.run_pictures import prediction_grid, run_illustration
from adlib.report.table_html import show_comparison, show_table
from adlib.report.tables import comparison, comparisons
from adlib.report.threshold_transfer import threshold_table, transferred
from adlib.report.training_preview import paper_training_preview, training_preview

__all__ = [
    "LOWER_IS_BETTER",
    "across_banner",
    "banner",
    "baseline_table",
    "below_limits",
    "blocks",
    "category_table",
    "comparison",
    "comparisons",
    "critical_difference_diagrams",
    "dataset_means",
    "defect_table",
    "fact_table",
    "metric_label",
    "metric_table",
    "operating_thresholds",
    "order_agreement",
    "paired_table",
    "paper_banner",
    "paper_training_preview",
    "pooled_table",
    "prediction_grid",
    "published_bars",
    "published_table",
    "rank_agreement",
    "rank_heat_map",
    "rank_tests",
    "real_defect_runs",
    "recall_by_defect",
    "record_table",
    "region_table",
    "run_curves",
    "run_illustration",
    "run_table",
    "segmentations",
    "share_of_gap",
    "show_comparison",
    "show_runs",
    "show_table",
    "standing",
    "stored_predictions",
    "threshold_table",
    "time_table",
    "training_preview",
    "transferred",
    "warnings_of",
]
