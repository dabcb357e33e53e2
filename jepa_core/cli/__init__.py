"""The command line: the `jepa` command, one file for each of its commands; commands.py puts them together."""

from jepa_core.cli.commands import app as app
from jepa_core.cli.commands import main as main

__all__ = ["app", "main"]
