"""`python -m jepa_core` is the `jepa` command."""

from __future__ import annotations

from jepa_core.cli.commands import main

if __name__ == "__main__":
    main()
