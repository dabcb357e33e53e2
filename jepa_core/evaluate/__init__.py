"""Judging what was learned: frozen features, probes, collapse scores, and the table that shows them."""

from jepa_core.evaluate.collapse import (
    AlarmSettings,
    CollapseReading,
    collapse_warning,
    feature_std,
    prediction_retrieval,
    rankme,
)
from jepa_core.evaluate.context import EvaluationContext
from jepa_core.evaluate.features import Features, extract, model_features, raw_pixels
from jepa_core.evaluate.known_values import KnownValues
from jepa_core.evaluate.pair_protocols import ComparesPairs, PairEmbedder, ReadsPrompts
from jepa_core.evaluate.probes import KNN, LeaveOneOut, LinearProbe, ProbeScores
from jepa_core.evaluate.score_tables import (
    EvaluationRow,
    EvaluationTable,
    MetricScore,
    make_rows,
    share_score,
)
from jepa_core.evaluate.scoring import evaluate
from jepa_core.evaluate.table import EvalResult, Row
from jepa_core.protocols import FeatureMap
from jepa_core.runtime.progress import NoProgress, Progress
from jepa_core.settings.evaluations import OnRequest

__all__ = [
    "KNN",
    "AlarmSettings",
    "CollapseReading",
    "ComparesPairs",
    "EvalResult",
    "EvaluationContext",
    "EvaluationRow",
    "EvaluationTable",
    "FeatureMap",
    "Features",
    "KnownValues",
    "LeaveOneOut",
    "LinearProbe",
    "MetricScore",
    "NoProgress",
    "OnRequest",
    "PairEmbedder",
    "ProbeScores",
    "Progress",
    "ReadsPrompts",
    "Row",
    "collapse_warning",
    "evaluate",
    "extract",
    "feature_std",
    "make_rows",
    "model_features",
    "prediction_retrieval",
    "rankme",
    "raw_pixels",
    "share_score",
]
