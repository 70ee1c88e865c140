"""The studies: what the papers leave open. NAME.yaml is the plan, NAME.py beside it what is computed from its runs.

The plan has the form of a paper's protocol (adlib.papers), without published numbers; `profiles` says what differs
under a profile (adlib.runs.plan.adapted). `adlib reproduce study/NAME` does the runs and executes the notebook, which
calls the functions here: each takes tables and gives tables, figures or sentences, so that a conclusion follows the
numbers and is never typed.
"""

from adlib.rounding import rounded
from adlib.studies import (
    choosing_the_epoch_on_test,
    cost,
    features,
    how_many_normals,
    significance,
    thresholds_that_travel,
    unscreened_training,
    what_is_missed,
)
from adlib.studies.common import best_trivial, sentences, study_banner

__all__ = [
    "best_trivial",
    "choosing_the_epoch_on_test",
    "cost",
    "features",
    "how_many_normals",
    "rounded",
    "sentences",
    "significance",
    "study_banner",
    "thresholds_that_travel",
    "unscreened_training",
    "what_is_missed",
]
