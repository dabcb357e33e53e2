"""How observers are told: those of one run first, then all plugins; one that fails is told nothing more."""

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


class Listeners:
    """The observer hooks of a run: `listeners.jepa_step_ended(run=…, step=…, metrics=…)` tells everyone.

    What is unusual: a plugin that fails is named in a warning and told nothing more, and the run goes on.
    A UserError is its way of ending the run. The errors of observers that were registered for this run
    alone are the caller's own, and raised.
    """

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins
        self._failed: set[str] = set()

    def __getattr__(self, hook: str) -> Callable[..., None]:
        return partial(self._tell, getattr(self._plugins.manager.hook, hook))

    def _tell(self, hook: pluggy.HookCaller, **facts: Any) -> None:
        for impl in reversed(hook.get_hookimpls()):  # pluggy's order: who came last is called first
            if impl.plugin_name in self._failed:
                continue
            self._plugins.manager.trace.root.get("hook")(hook.name, impl.plugin_name)
            try:
                impl.function(*(facts[name] for name in impl.argnames))
            except UserError:
                raise
            except Exception as error:  # a plugin may fail in any way; training must go on
                self._leave_out(impl.plugin_name, f"{hook.name}: {type(error).__name__}: {error}", error)

    def _leave_out(self, name: str, said: str, error: Exception) -> None:
        for plugin in self._plugins.statuses:
            if plugin.name == name:
                plugin.error = said
                self._failed.add(name)
                log.warning("plugin %r failed and is told nothing more of this run: %s", name, said)
                return
        raise error


@contextmanager
def watching(run: TrainingRun, observers: Sequence[object]) -> Iterator[Any]:
    """The hook caller with `observers`, then all plugins, listening in this order while the run lasts."""
    found = plugins.registry()
    hook = Listeners(found)
    with ExitStack() as stack:
        for observer in reversed(observers):  # pluggy calls the newest first
            found.register(observer, f"observer {type(observer).__name__} at {id(observer):#x}")
            stack.callback(found.manager.unregister, observer)
        stack.callback(hook.jepa_run_ended, run=run)
        hook.jepa_run_started(run=run)
        yield hook
