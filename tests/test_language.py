"""Words and phrases that the project's glossary replaces stay out of everything that is written by hand.

An entry of `FORBIDDEN` names the phrase and its replacement. Pages that a command generates are not read.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "docs" / "reports"
WORD_LISTS = {Path(__file__), ROOT / "tests" / "cli" / "test_options.py"}
"""Tests that hold such words as data."""
FORBIDDEN = {
    "a domain a": "one … per domain",
    "a line a": "one line per …",
    "a panel a": "one panel per …",
    "a row a": "one row per …",
    "afresh": "again",
    "anew": "again",
    "anybody": "any process, any user",
    "as it stands": "unchanged, current",
    "as they stand": "unchanged, current",
    "at hand": "available, current",
    "cannot be told apart": "the difference is not significant",
    "domains that mean nothing": "random domains, meaningless domains",
    "everybody": "all, each domain, shared",
    "given up after": "gave up after",
    "go by": "are indexed by, depend on",
    "go side by side": "run in parallel",
    "goal missed": "state the ratio alone",
    "goes about": "proceeds, works",
    "goes by": "is indexed by, depends on",
    "going by": "indexed by, depending on",
    "had it for nothing": "got it for free",
    "had rather": "name the choice and its reason",
    "hear that": "called after",
    "heed": "respect, account for",
    "heeds": "respects, accounts for",
    "held against": "checked",
    "hold against": "check",
    "honest one": "name the property",
    "in these words": "with this message",
    "inks": "colours",
    "is none of": "is not one of",
    "is none of our business": "is ignored",
    "lend": "assign",
    "made up for": "caught up with",
    "made up rows": "synthetic rows",
    "made-up": "synthetic",
    "make room": "free disk space",
    "move numbers": "change results",
    "moves results": "changes results",
    "moves the numbers": "changes results",
    "no room": "not enough memory or space",
    "nobody": "no process, no user, nothing",
    "of ours": "of ctrbench",
    "one a row": "one per row",
    "out of reach": "cannot be learned, exceeds",
    "put out as": "encoded as",
    "put out standardised": "standardised",
    "reckon": "account for",
    "room for": "capacity for, space for",
    "rows a user": "rows per user",
    "runs side by side": "runs in parallel",
    "single domains own": "per-domain parameters",
    "somebody": "name the person or the process",
    "someone": "name the person or the process",
    "take note of": "record, update",
    "takes note of": "records, updates",
    "tell apart": "distinguish",
    "told apart": "distinguished",
    "told otherwise": "(default: …)",
    "went on from": "resumed from",
    "whatever": "for any, regardless of",
    "wherever": "in every place that",
    "whoever": "name the person or the process",
    "whole house": "name the project or the module",
    "whomever": "name the person or the process",
    "whose a loop is": "owner of the loop",
    "worth a look": "say what to look at",
}
"""Phrase → what to write instead."""


def _is_generated(page: Path) -> bool:
    """Reports lie in folders of `docs/reports`; the pages beside them and README files are written by hand."""
    return REPORTS in page.parents and page.parent != REPORTS and page.name != "README.md"


def _files() -> Iterator[Path]:
    for folder in ("ctrbench", "tests", "benchmarks"):
        yield from (ROOT / folder).rglob("*.py")
    for folder in ("ctrbench", "datasets", "studies"):
        yield from (ROOT / folder).rglob("*.toml")
    yield from (page for page in (ROOT / "docs").rglob("*.md") if not _is_generated(page))
    yield from ROOT.glob("*.md")


@pytest.fixture(scope="module")
def texts() -> dict[Path, str]:
    return {file: file.read_text(encoding="utf-8") for file in _files() if file not in WORD_LISTS}


def _pattern(phrase: str) -> re.Pattern[str]:
    """The phrase as whole words, in prose and in names; between two words a line of text or comment may end."""
    words = r"(?:_|\s+#?\s*)".join(re.escape(word) for word in phrase.split())
    return re.compile(rf"(?<![a-z]){words}(?![a-z])", re.IGNORECASE)


@pytest.mark.parametrize("phrase", FORBIDDEN)
def test_the_phrase_is_not_written(texts: dict[Path, str], phrase: str) -> None:
    pattern = _pattern(phrase)
    findings = [
        f"{file.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}"
        for file, text in texts.items()
        for match in pattern.finditer(text)
    ]
    assert findings == [], f"write {FORBIDDEN[phrase]!r} in place of {phrase!r}"


@pytest.mark.parametrize(
    "text", ["# It is worth\n    # a look.", "def test_worth_a_look() -> None:", "Worth a look"]
)
def test_a_phrase_is_found_across_lines_and_in_names(text: str) -> None:
    assert _pattern("worth a look").search(text)


STEMS = (
    "capital|categor|emphas|final|general|initial|maxim|minim|normal|optim|organ|parameter|penal|random|recogn|regular|"
    "serial|special|standard|summar|synchron|vector|visual"
)
BRITISH = {
    rf"(?:{STEMS})is(?:e[drs]?|ers|ing|ations?|able)": "-ize, -ization",
    "analyse": "analyze",
    "artefact": "artifact",
    "behaviour": "behavior",
    "catalogue": "catalog",
    "centred?": "center",
    "colour": "color",
    "favour": "favor",
    "grey": "gray",
    "honour": "honor",
    "judgement": "judgment",
    "labelled": "labeled",
    "learnt": "learned",
    "licence": "license",
    "misspelt": "misspelled",
    "modelled": "modeled",
    "neighbour": "neighbor",
}
"""British spelling → American spelling, as in scikit-learn and PyTorch."""
STORED = re.compile(
    r"component_behaviour|['\"]behaviour['\"]|\.centre[\"`]|regularise|regularisation|licence( =|:|`)|colour = \"red|"
    r"['\"]colour['\"]|colour=red"
)
"""Names in stored records, cards and data, labels of random draws, and unknown names in tests."""


@pytest.mark.parametrize("spelling", BRITISH)
def test_spelling_is_american(texts: dict[Path, str], spelling: str) -> None:
    pattern = re.compile(rf"(?<![a-z]){spelling}", re.IGNORECASE)
    findings = [
        f"{file.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}"
        for file, text in texts.items()
        if file.suffix != ".toml"
        for match in pattern.finditer(STORED.sub("", text))
    ]
    assert findings == [], f"write {BRITISH[spelling]}"


VAGUE = {
    "asked": "requested",
    "at_hand": "available, current",
    "beside": "the noun",
    "check": "_check_settings, _check_file, …",
    "do": "the verb and its object",
    "far": "the quantity",
    "flat": "_flatten_…",
    "form": "format, kind",
    "found": "the noun",
    "get": "the noun",
    "given": "the noun",
    "joined": "_join_…",
    "kept": "selected, the noun",
    "known": "available, existing",
    "made": "the noun",
    "make": "_make_ and the noun",
    "merged": "_merge_…",
    "one": "the noun",
    "ours": "the noun",
    "place": "index, location",
    "rest": "the noun",
    "seen": "the noun",
    "shown": "_…_text",
    "theirs": "the noun",
    "thing": "the noun",
    "wanted": "requested",
    "what": "the noun",
    "whole": "all, full",
}
"""Names of functions that say nothing → what to name instead."""
NOUNS = {"check", "far", "flat", "form", "joined", "kept", "make", "merged", "rest", "seen", "shown"}
"""Those that are clear enough for a variable or a public name."""


def _names(file: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.FunctionDef(name=name) if name.startswith("_"):
                yield node.lineno, name.strip("_")
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) if name.strip("_") not in NOUNS:
                yield node.lineno, name.strip("_")


def test_private_functions_variables_and_parameters_have_names_that_say_something() -> None:
    findings = [
        f"{file.relative_to(ROOT)}:{line}: {name}, write {VAGUE[name]}"
        for file in sorted((ROOT / "ctrbench").rglob("*.py"))
        for line, name in _names(file)
        if name in VAGUE
    ]
    assert findings == []
