"""Metrics of anomaly detection: exact, bounded in memory, undefined values as NaN with a reason.

Importing this package loads neither torch nor scikit-learn; each name below is loaded when first used.
"""

from importlib import import_module

_HOME = {
    "ranking": (
        "average_precision",
        "aupro",
        "auroc",
        "f1_max",
        "image_metrics",
        "partial_auroc",
        "pixel_metrics",
    ),
    "decision": (
        "confusion_metrics",
        "decision_metrics",
        "threshold_best_f1",
        "threshold_fpr_budget",
        "threshold_maximum",
        "threshold_quantile",
    ),
    "bootstrap": ("bootstrap_images", "bootstrap_pixels", "compare_images", "compare_pixels"),
    "uncertainty": ("delong", "delong_compare", "over_seeds"),
    "breakdown": (
        "defect_regions",
        "image_metrics_by_defect",
        "pixel_metrics_by_defect",
        "recall_by_size",
        "size_edges",
        "wilson_interval",
    ),
    "curves": ("Curves", "image_curves", "pixel_curves"),
    "variants": (
        "PRO_LABELS",
        "PRO_VARIANTS",
        "image_scores",
        "pro_200_thresholds",
        "pro_anomalous_images",
        "pro_at_image_f1",
        "pro_both_rescaled",
        "pro_dilated",
        "pro_per_image",
        "pro_variant",
    ),
}
_FILE = {name: file for file, names in _HOME.items() for name in names}
__all__ = sorted(_FILE)


def __getattr__(name: str):
    if name not in _FILE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_FILE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
