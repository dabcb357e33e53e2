"""Telling observers what happens in a run: those of this run first, then all plugins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pluggy

from jepa_core import plugins
from jepa_core.errors import UserError
from jepa_core.plugins import Plugins, log
from jepa_core.protocols import TrainingRun
from jepa_core.runtime.plugin_calls import PluginError, call_plugin


class Listeners:
    """Calls the observer hooks of a run: `listeners.jepa_step_ended(run=…, step=…, metrics=…)`.

    An installed plugin that fails in any way is named in a warning and not called again in this run, which
    goes on. Raising a UserError is its way of ending the run. Errors of objects that were registered for this
    run alone (`train(..., watch=[…])`) are the caller's, and raised as they are.
    """

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins
        self._failed: set[str] = set()

    def __getattr__(self, hook: str) -> Callable[..., None]:
        return partial(self._tell, getattr(self._plugins.manager.hook, hook))

    def _tell(self, hook: pluggy.HookCaller, **facts: Any) -> None:
        for impl in reversed(hook.get_hookimpls()):  # pluggy's order: the last registered is called first
            if impl.plugin_name in self._failed:
                continue
            self._plugins.manager.trace.root.get("hook")(hook.name, impl.plugin_name)
            arguments = [facts[name] for name in impl.argnames]
            if self._plugins.status(impl.plugin_name) is None:
                impl.function(*arguments)
            else:
                self._tell_plugin(impl, hook.name, arguments)

    def _tell_plugin(self, impl: pluggy.HookImpl, hook: str, arguments: Sequence[Any]) -> None:
        try:
            call_plugin(impl.function, *arguments)
        except PluginError as error:
            if isinstance(error.raised, UserError):
                raise UserError(error.message) from error.raised
            self._leave_out(impl.plugin_name, f"{hook}: {error}")

    def _leave_out(self, name: str, error: str) -> None:
        self._failed.add(name)
        status = self._plugins.status(name)
        if status is not None:
            status.error = error
        log.warning("plugin %r failed and is told nothing more of this run: %s", name, error)


@contextmanager
def observe(run: TrainingRun, observers: Sequence[object]) -> Iterator[Any]:
    """The hook caller of a run: `observers` in their order, then all plugins, listen while it lasts."""
    registry = plugins.registry()
    hook = Listeners(registry)
    with ExitStack() as stack:
        for observer in reversed(observers):  # the last registered is called first
            registry.register(observer, f"observer {type(observer).__name__} at {id(observer):#x}")
            stack.callback(registry.manager.unregister, observer)
        stack.callback(hook.jepa_run_ended, run=run)
        hook.jepa_run_started(run=run)
        yield hook
