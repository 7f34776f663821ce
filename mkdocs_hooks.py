"""Hooks of the documentation site: the leaderboard as a page, and links to files of the repository outside docs/.

Pages link to files such as `../BENCHMARKS.md` or `../../ctrbench/methods/star.py`, which work in a checkout. On the
site, the leaderboard is a page of its own and other files are named without a link; a link to a missing file is a
warning, which fails a strict build.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent
LEADERBOARD = "leaderboard.md"
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]\[]+)\]\((?P<target>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)")
log = logging.getLogger("mkdocs.plugins.repository_links")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add BENCHMARKS.md as a page."""
    text = (ROOT / "BENCHMARKS.md").read_text(encoding="utf-8")
    files.append(File.generated(config, LEADERBOARD, content=_rewrite(text, PurePosixPath("BENCHMARKS.md"))))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links to files outside docs/."""
    if page.file.src_uri == LEADERBOARD:
        return markdown
    return _rewrite(markdown, PurePosixPath("docs") / page.file.src_uri)


def _rewrite(markdown: str, source: PurePosixPath) -> str:
    """Return the text of a file of the repository with links that work on the site."""
    folder = str(PurePosixPath(*source.parts[1:]).parent) if source.parts[0] == "docs" else "."

    def replace(match: re.Match[str]) -> str:
        target = normpath(str(source.parent / match["target"]))
        if target == "BENCHMARKS.md":
            return f"[{match['text']}]({relpath(LEADERBOARD, folder)})"
        if target.startswith("docs/") and (ROOT / target).is_file():
            return (
                f"[{match['text']}]({relpath(target.removeprefix('docs/'), folder)}{match['anchor'] or ''})"
            )
        if not (ROOT / target).exists():
            log.warning("%s links to %s, which does not exist", source, target)
        return match["text"]

    return LINK.sub(replace, markdown)
