"""All checks of `jepa doctor`, one topic after the other."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

from jepa_core.doctor.check import Check
from jepa_core.errors import UserError
from jepa_core.runtime.plugin_calls import PluginError, call_plugin

TOPICS = {
    "versions": ("machine", "versions"),
    "devices": ("machine", "devices"),
    "kernels": ("kernels", "choices"),
    "plugins": ("extensions", "check_plugins"),
    "data": ("storage", "data"),
    "disk": ("storage", "disk"),
    "self-test": ("selftest", "run"),
}
"""Topic: file of this folder and the function that yields its checks. Imported late, since that may fail."""


def examine() -> Iterator[Check]:
    """Every check as soon as it is made; the self-test last.

    A topic runs plugins' code (their components in the self-test, say), which may raise anything.
    """
    for topic, (file, function) in TOPICS.items():
        try:
            checks = call_plugin(_start, file, function)
            while (check := call_plugin(next, checks, None)) is not None:
                yield check
        except PluginError as error:
            if isinstance(error.raised, UserError):
                yield Check(topic, "", "problem", error.message)
            else:
                advice = "the others are not affected; if it is no fault of this machine, please report it"
                yield Check(topic, "", "problem", str(error), advice)


def _start(file: str, function: str) -> Iterator[Check]:
    return iter(getattr(import_module(f"jepa_core.doctor.{file}"), function)())
