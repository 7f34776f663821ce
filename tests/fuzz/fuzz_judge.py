"""The judge of the fuzz suite: which outcomes of a command are legal.

Exit code 0 needs output that a test verifies; exit code 2 has one error and leaves every file unchanged; exit code 1 is
for failed runs. No outcome shows a traceback, a warning of a library or a control character, and none takes too long.
"""

from __future__ import annotations

import re
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fuzz_values import FACTOR
from fuzz_world import Outcome, Snapshot, call, snapshot

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters that change a terminal; line ends and tabs are text."""
BUG = "this is a bug of ctrbench"
"""Beginning of the hint that names the file with the traceback of an unexpected exception."""


class Judge:
    """Calls commands and judges their outcomes: verified output, one error and nothing written, or a failed run."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: dict[str, str] = {}
        self.num_failures: Counter[str] = Counter()

    def __call__(
        self,
        folder: Path,
        *arguments: str,
        legal: tuple[int, ...] = (0, 2),
        verify: Callable[[Outcome], object] | None = None,
        case: object = None,
        caller: Callable[..., Outcome] = call,
    ) -> Outcome:
        """Call a command in the folder of a case; raises `AssertionError` for an outcome that is not legal.

        `verify` checks the output of exit code 0; `case` describes the input for the message.
        """
        before = snapshot(folder)
        outcome = caller(*arguments)
        self.counts[outcome.kind] += 1
        fault = find_fault(outcome, legal, before, snapshot(folder))
        if fault is None and outcome.code == 0 and verify is not None:
            fault = _failure_of(partial(verify, outcome))
        if fault is not None:
            self._fail(f"{arguments[0]}: {fault}", f"{outcome}\n{_stored_traceback(outcome)}\ncase: {case!r}")
        return outcome

    def _fail(self, fault: str, text: str) -> None:
        # Reports of tests are UTF-8, which the texts of a case need not be.
        fault, text = (part.encode("utf-8", "backslashreplace").decode("utf-8") for part in (fault, text))
        self.num_failures[fault] += 1
        if len(text) < len(self.failures.get(fault, "")) or fault not in self.failures:
            self.failures[fault] = text
        if FACTOR <= 1:
            raise AssertionError(f"{fault}\n{text}")


def _stored_traceback(outcome: Outcome) -> str:
    """Return the end of the traceback that an unexpected exception left in a file, and remove the file."""
    match = re.search(r"the traceback is in (\S+)", outcome.err)
    if match is None or not Path(match[1]).is_file():
        return ""
    text = Path(match[1]).read_text(encoding="utf-8", errors="replace")
    Path(match[1]).unlink()
    return text[-1500:]


def _failure_of(verify: Callable[[], object]) -> str | None:
    """Return how a verification failed; None if it passed."""
    try:
        verify()
    except Exception as error:  # noqa: BLE001  # any exception is a finding
        return f"the output is wrong: {type(error).__name__}: {str(error)[:300]}"
    return None


def find_fault(outcome: Outcome, legal: tuple[int, ...], before: Snapshot, after: Snapshot) -> str | None:
    """Return why an outcome is not legal; None if it is."""
    text = outcome.out + outcome.err
    if outcome.is_hang:
        return "hang"
    if outcome.error is not None:
        return _origin(outcome.error)
    if BUG in text:
        return f"a bug is reported: {re.findall('^error: .*', outcome.err, re.MULTILINE)[-1:]}"
    if outcome.code not in legal:
        return f"exit code {outcome.code}: {outcome.err.strip().splitlines()[-1:]}"
    if "Traceback (most recent call last)" in text:
        return "a traceback is shown"
    if outcome.warnings or re.search(r"^\S*Warning: ", text, re.MULTILINE):
        return f"a warning is shown: {outcome.warnings[:1]}"
    if CONTROL.search(text):
        return "control characters are shown"
    return _fault_of_refusal(outcome, before, after) if outcome.code == 2 else None


def _fault_of_refusal(outcome: Outcome, before: Snapshot, after: Snapshot) -> str | None:
    num_errors = len(re.findall(r"^error: |^╭─ Error ", outcome.err, re.MULTILINE))
    if num_errors != 1:
        return f"{num_errors} errors are shown"
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return (
        f"refused after writing {re.sub('[0-9a-f]{12,}', '*', ', '.join(changed[:4]))}" if changed else None
    )


def _origin(error: BaseException) -> str:
    """Return type, beginning and place of an exception."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if "/ctrbench/" in frame.filename]
    place = f"{Path(own[-1].filename).name}:{own[-1].lineno} {own[-1].name}" if own else "?"
    return f"{type(error).__name__} in {place}: {str(error)[:80]}"
