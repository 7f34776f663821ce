"""The pages of the specification, and the citations of their sections in code, tests and documents.

A section has an anchor such as `star-2.2` in front of its heading; a citation is the word `spec:` and an anchor.
"""

import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "specification"
ANCHOR = r"[a-z0-9]+(?:-[a-z0-9]+)*-\d+\.\d+"
SECTION = re.compile(r'^<a id="(?P<anchor>[^"]+)"></a>\n\n(?P<heading>.*)$', re.MULTILINE)
CITATION = re.compile(rf"\bspec:\s+(?P<anchors>{ANCHOR}(?:(?:,| and| to)\s+{ANCHOR})*)")
LINK = re.compile(r"\]\((?!https?:)(?P<file>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")


def _pages() -> list[Path]:
    return sorted(PAGES.glob("*.md"))


def _sections() -> list[tuple[str, str]]:
    """(anchor, heading) of every section."""
    texts = [page.read_text(encoding="utf-8") for page in _pages()]
    return [(match["anchor"], match["heading"]) for text in texts for match in SECTION.finditer(text)]


def _cited_files() -> Iterator[Path]:
    for folder in ("ctrbench", "tests", "benchmarks"):
        yield from (ROOT / folder).rglob("*.py")
    yield from (page for page in (ROOT / "docs").rglob("*.md") if page != PAGES / "index.md")
    yield from ROOT.glob("*.md")


def _citations(text: str) -> Iterator[str]:
    # A citation may continue on the next line of a comment.
    joined = re.sub(r"\n\s*#?\s*", " ", text)
    for match in CITATION.finditer(joined):
        yield from re.findall(ANCHOR, match["anchors"])


def _prose(file: Path) -> str:
    """A document, or the comments and strings of a Python file."""
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".py":
        return text
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    kinds = (tokenize.COMMENT, tokenize.STRING)
    return "\n".join(token.string for token in tokens if token.type in kinds)


def test_anchors_are_unique() -> None:
    counts = Counter(anchor for anchor, _ in _sections())
    assert [anchor for anchor, count in counts.items() if count > 1] == []


@pytest.mark.parametrize(("anchor", "heading"), _sections())
def test_an_anchor_carries_the_number_of_its_heading(anchor: str, heading: str) -> None:
    assert re.fullmatch(ANCHOR, anchor)
    assert heading.startswith(f"## {anchor.rpartition('-')[2]} ")


@pytest.mark.parametrize("page", _pages(), ids=lambda page: page.stem)
def test_every_numbered_heading_has_an_anchor(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^#{2,} \d.*$", text, flags=re.MULTILINE)
    assert headings == [match["heading"] for match in SECTION.finditer(text)]


def test_the_index_links_every_page() -> None:
    links = {match["file"] for match in LINK.finditer((PAGES / "index.md").read_text(encoding="utf-8"))}
    assert {page.name for page in _pages()} - links == {"index.md"}


@pytest.mark.parametrize("page", _pages(), ids=lambda page: page.stem)
def test_links_between_pages_resolve(page: Path) -> None:
    links = [match for match in LINK.finditer(page.read_text(encoding="utf-8")) if "/" not in match["file"]]
    assert [link["file"] for link in links if link["file"] and not (PAGES / link["file"]).exists()] == []


def test_every_citation_resolves() -> None:
    anchors = {anchor for anchor, _ in _sections()}
    dangling = {
        f"{file.relative_to(ROOT)}: {anchor}"
        for file in _cited_files()
        for anchor in _citations(file.read_text(encoding="utf-8"))
        if anchor not in anchors
    }
    assert dangling == set()


def test_sections_are_cited_by_their_anchor() -> None:
    others = (file for file in _cited_files() if file != Path(__file__))
    assert [
        str(file.relative_to(ROOT)) for file in others if re.search(r"\bMETHODS,?\s+\d", _prose(file))
    ] == []
