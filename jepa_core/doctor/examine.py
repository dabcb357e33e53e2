"""Everything that the doctor looks at, one check after the other."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

from jepa_core.doctor.check import Check
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
