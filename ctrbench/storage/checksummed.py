"""JSON files that hold the sha256 of their own content, so that damage and changes by hand are noticed.

A checksum is no signature: a person who changes a file can compute a new one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

CHECKSUM = "sha256"
"""Key of the digest, over all other keys and values."""


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a JSON object with the digest of the content."""
    return {**content, CHECKSUM: digest_of(content)}


def without_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content without its digest; raises `ValueError` if the digest does not match."""
    rest = {name: value for name, value in content.items() if name != CHECKSUM}
    if content.get(CHECKSUM) != digest_of(rest):
        raise ValueError("the content does not match its sha256; it was changed or damaged")
    return rest


def digest_of(content: object) -> str:
    """Return the sha256 of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def canonical_json(content: object) -> str:
    """Return a value as JSON with sorted keys and without white space."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"))
