"""License and citation files agree with the package's metadata."""

import hashlib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
APACHE_2_SHA256 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
"""Digest of https://www.apache.org/licenses/LICENSE-2.0.txt."""


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return dict(tomllib.loads(text)["project"])


def _citation(key: str) -> str:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    match = re.search(rf"^{key}: (.+)$", text, flags=re.MULTILINE)
    assert match, f"CITATION.cff has no {key}"
    return match[1]


def test_the_license_file_is_the_unmodified_apache_2_text() -> None:
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2_SHA256


@pytest.mark.parametrize(
    ("key", "field"), [("title", "name"), ("version", "version"), ("license", "license")]
)
def test_the_citation_agrees_with_the_project(project: dict[str, Any], key: str, field: str) -> None:
    assert _citation(key) == project[field]


def test_the_citation_names_the_authors_of_the_project(project: dict[str, Any]) -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert [{"name": name} for name in re.findall(r"^  - name: (.+)$", text, flags=re.MULTILINE)] == project[
        "authors"
    ]
