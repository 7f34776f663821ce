"""Limits on address space, such as `ulimit -v`, under which libraries abort instead of raising an error.

Polars, torch and numba end the process where memory cannot be reserved, and the renderer of charts reserves far more
than it uses. No handler sees that, so such limits are refused before.
"""

from __future__ import annotations

import resource

from ctrbench.errors import SettingError

LIBRARIES = 4_000_000_000
"""Bytes of address space with which commands work on small data; with 3 GB, libraries abort."""
CHARTS = 200_000_000_000
"""Bytes of address space that the renderer of charts reserves at most; with 40 GB, it aborts."""


def check_address_space(needed: int, purpose: str) -> None:
    """Raise `SettingError` if the process has a limit on address space below `needed` bytes."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if resource.RLIM_INFINITY != limit < needed:
        raise SettingError(
            f"{purpose} must have {needed / 1e9:,.0f} GB of address space, most of which is never used",
            value=f"the limit is {limit / 1e9:,.1f} GB (ulimit -v)",
            remedy="remove it with ulimit -v unlimited, and limit memory by a container or a control group",
        )
