"""`jepa doctor`: is this machine, and this installation, fit to train?

Every finding is a `Check`: ok, a warning (it works, but not as it could) or a problem (something will fail),
with what to do about it. A look that fails is itself a problem, and the others still take place.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

from jepa_core.doctor.check import Check as Check
from jepa_core.errors import UserError

LOOKS = {
    "versions": ("machine", "versions"),
    "devices": ("machine", "devices"),
    "kernels": ("kernels", "choices"),
    "plugins": ("extensions", "installed"),
    "data": ("storage", "data"),
    "disk": ("storage", "disk"),
    "self-test": ("selftest", "run"),
}
"""Topic: file of this folder and function that makes its checks. Imported at the look: that may fail too."""

__all__ = ["LOOKS", "Check", "examine"]


def examine() -> Iterator[Check]:
    """Every check, one after the other as it is made; the self-test last."""
    for topic, (file, look) in LOOKS.items():
        try:
            yield from getattr(import_module(f"jepa_core.doctor.{file}"), look)()
        except UserError as error:
            yield Check(topic, "", "problem", str(error))
        except Exception as error:  # whatever fails here is what the doctor is there to say
            advice = "the others are not affected; if it is no fault of this machine, please report it"
            yield Check(topic, "", "problem", f"{type(error).__name__}: {error}", advice)
