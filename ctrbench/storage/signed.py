"""JSON files that hold the sha256 of their own content, so that damage and changes by hand are noticed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SIGNATURE = "sha256"
"""Key of the digest, over all other keys and values."""


def signed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a JSON object with the digest of the content."""
    return {**content, SIGNATURE: digest_of(content)}


def verified(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a signed JSON object without its digest; raises `ValueError` if that does not fit."""
    unsigned = {name: value for name, value in content.items() if name != SIGNATURE}
    if content.get(SIGNATURE) != digest_of(unsigned):
        raise ValueError("the content does not fit its sha256; it was changed or damaged")
    return unsigned


def digest_of(content: object) -> str:
    """Return the sha256 of a value that JSON can hold, independent of the order of keys and of white space."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
