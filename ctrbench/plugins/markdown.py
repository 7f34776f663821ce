"""Markdown of generated pages: paragraphs of docstrings, with links to the specification and to other documents."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import groupby
from pathlib import Path

SPECIFICATION = Path("docs/specification")
_SIGNS = re.compile(r"[*<|]|\](?=\()|(?<!\w)_|_(?!\w)")
_ANCHOR = r"[a-z0-9]+(?:-[a-z0-9]+)*-\d+\.\d+"
_CITATION = re.compile(rf"\bspec: ({_ANCHOR})(?: (and|to) ({_ANCHOR}))?")
_DOCUMENT = re.compile(r"\bdocs/([\w/-]+\.md)")


def markdown_body(text: str, depth: int) -> Iterator[str]:
    """Yield paragraphs as one line each, and indented blocks as blocks of code."""
    for block in filter(None, re.split(r"\n{2,}", text.strip("\n"))):
        for is_formula, group in groupby(block.splitlines(), lambda line: line.startswith("    ")):
            lines = list(group)
            if is_formula:
                yield "\n".join(["```text", *(line[4:] for line in lines), "```\n"])
            else:
                yield f"{paragraph(' '.join(lines), depth)}\n"


# Settings.


def join_lines(lines: Iterable[str]) -> str:
    """Return the lines of a table or a page, each ended by a line break."""
    return "\n".join(lines) + "\n"


def paragraph(text: str, depth: int) -> str:
    """Return a paragraph of a docstring as Markdown, with links to the specification and to other documents."""
    text = escape(" ".join(text.split()))
    up = "../" * depth
    text = _CITATION.sub(lambda match: _link_sections(match, up), text)
    return _DOCUMENT.sub(lambda match: f"[docs/{match[1]}]({up}{match[1]})", text)


def _link_sections(match: re.Match[str], up: str) -> str:
    anchors = [anchor for anchor in match.group(1, 3) if anchor]
    links = [f"[{anchor}]({up}specification/{_pages_of_anchors()[anchor]}#{anchor})" for anchor in anchors]
    return f"specification {f' {match[2]} '.join(links)}"


@cache
def _pages_of_anchors() -> dict[str, str]:
    """Return the page of each anchor of the specification, from the files below the current folder."""
    return {
        anchor: page.name
        for page in sorted(SPECIFICATION.glob("*.md"))
        for anchor in re.findall(rf'<a id="({_ANCHOR})"', page.read_text(encoding="utf-8"))
    }


def escape(text: str) -> str:
    """Escape signs of formulas that Markdown would interpret; text in backticks is unchanged."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else _SIGNS.sub(r"\\\g<0>", part) for part in parts)
