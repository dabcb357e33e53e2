"""Tests of Triton kernels without a GPU: Triton reads TRITON_INTERPRET when a kernel is defined.

So they need a process of their own, which `tests/kernels/test_interpreted.py` starts. By hand:

    TRITON_INTERPRET=1 python -m pytest tests/kernels/interpreted
"""

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
