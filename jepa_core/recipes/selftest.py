"""Which of the recipes called `selftest` stands for a plain JEPA: new plugins and checks start from it."""

from __future__ import annotations

from jepa_core.recipes.files import names
from jepa_core.recipes.load import read
from jepa_core.settings.recipe import DEFAULTS


def plain_selftest() -> str | None:
    """The first recipe called `selftest` that trains the engine's own variant, else the first one; None
    without any. Raises UserError for one that cannot be read."""
    selftests = [name for name in names() if name.endswith("/selftest")]
    own = DEFAULTS["variant"]["name"]
    plain = [name for name in selftests if _variant(name) == own]
    return next(iter(plain or selftests), None)


def _variant(name: str) -> str:
    variant = read(name).get("variant", {})
    own = DEFAULTS["variant"]["name"]
    return str(variant.get("name", own) if isinstance(variant, dict) else variant)
