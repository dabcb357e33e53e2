"""Published weights by name: a timm model, or a repository of the Hugging Face hub, kept in its cache."""

from __future__ import annotations

import os

from jepa_core import plugins
from jepa_core.errors import UserError
from jepa_core.formats.weight_file import FOLDER_WEIGHTS, Source


def find_source(name: str) -> tuple[Source, str | None]:
    """(where the weights are, their format where the name says it) of `timm:MODEL`, `ORGANISATION/NAME`, ….

    A name with a slash is a repository of the hub, fetched unless it is in the cache. Raises UserError for a
    path, and for a repository that cannot be fetched.
    """
    if os.path.exists(name):
        raise UserError(f"{name!r} is a path; a run's folder is given as run=…, a file of weights as file=…")
    prefix, colon, rest = name.partition(":")
    known = plugins.registry().catalogue("format").classes
    form, bare = (prefix, rest) if colon and prefix in known else (None, name)
    return Source(fetch_repository(bare) if "/" in bare else bare), form


def fetch_repository(name: str) -> str:
    """The folder of a repository's weights and settings. Raises UserError where it cannot be fetched."""
    from huggingface_hub import snapshot_download

    try:
        return str(snapshot_download(name, allow_patterns=["*.json", *FOLDER_WEIGHTS]))
    except Exception as error:  # the hub's library and its network fail in any way
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(
            f"the weights {name!r} are not in the cache and cannot be fetched: {reason}"
        ) from None
