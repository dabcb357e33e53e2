"""What `jepa plugins new` has templates of."""

from __future__ import annotations

MADE = (
    "masker",
    "objective",
    "variant",
    "evaluation",
    "data",
    "transform",
    "encoder",
    "predictor",
    "probe",
    "optimizer",
)
"""What has a template: kinds of component, and functions by name."""
