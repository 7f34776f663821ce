"""`make bench-peers`: run FuxiCTR, torch-rechub, DeepCTR-Torch and ctrbench in turns and record the figures.

Peers are installed in a separate environment; each library has one worker process per contest, which is idle during the
turns of others. Raw figures are written to `results/speed/<machine>/speed.json`, and the table of docs/speed.md is
written from that file alone. `--only GROUP` measures one group and keeps the others with their dates. The group `twin`
needs 13 GB in the temporary folder (TMPDIR) and some minutes.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from contestants import Contestants, Failed, Result, Setting
from contests import CONTESTS, SWR, Contest
from figures import Record, insert, merge, range_of, rates, section

from ctrbench.runs.machine import commit, machine
from ctrbench.storage.files import write_text

ROOT = Path(__file__).parents[1]
PEERS = ("torch==2.13.0", "fuxictr==2.3.10", "polars<2", "torch-rechub==0.9.0", "deepctr-torch==0.3.0")
SIZE_TOLERANCE = 1e-3
"""Relative difference that biases and similar parameters of some libraries may cause."""
PAUSE_SECONDS = 0.2
"""Pause before a turn, so that the threads of the previous contestant become idle."""
TRIAL_SHARE, TRIAL_SECONDS = 0.01, 0.3


def run_contest(contest: Contest, setting: Setting) -> dict[str, Result]:
    """Run a contest; return the figures of each case, or its error."""
    results: dict[str, Result] = {}
    turns: dict[str, Callable[[], Result]] = {}
    with ExitStack() as stack:
        contestants = Contestants(contest, setting, stack)
        for case in contest.cases:
            result = results[case.name] = {}
            with recording_failure(result):
                opened, turns[case.name] = contestants.open(case)
                result |= {**opened, "rows": [], "seconds": [], "peak_bytes": []}
        if contest.is_same_size:
            refuse_other_sizes(list(results.values()))
        for number in range(min(setting.rounds, contest.max_rounds)):
            for name in rotated(list(results), number):
                take_turn(turns.get(name), results[name])
        for case in contest.cases:
            if case.library in contestants.workers and "error" not in results[case.name]:
                with recording_failure(results[case.name]):
                    results[case.name]["peak_bytes"] = [contestants.peak(case)]
    return results


@contextmanager
def recording_failure(result: Result) -> Iterator[None]:
    """Record the failure of a case, which ends that case and not the contest."""
    try:
        yield
    except Failed as failure:
        result["error"] = str(failure)


def take_turn(turn: Callable[[], Result] | None, result: Result) -> None:
    """Run the turn of a case and append its figures, unless the case has failed."""
    if turn is None or "error" in result:
        return
    time.sleep(PAUSE_SECONDS)
    with recording_failure(result):
        for name, value in turn().items():
            result[name].append(value)


def rotated(names: list[str], number: int) -> list[str]:
    """Return the order of a round: the names, rotated by the number of the round."""
    first = number % len(names)
    return names[first:] + names[:first]


def refuse_other_sizes(results: Sequence[Result]) -> None:
    """Mark cases whose size differs from that of the first as failed, unless they have a note."""
    own = results[0].get("parameters")
    for result in results:
        count = result.get("parameters", own)
        if own and abs(count - own) > SIZE_TOLERANCE * own and not result.get("note"):
            result["error"] = f"{count:,} parameters instead of {own:,}"


def peers_python(folder: Path) -> Path:
    """Return the interpreter of the peers' environment, creating it unless it holds the pinned packages."""
    stamp, python, pinned = folder / "installed.txt", folder / "bin" / "python", "\n".join(PEERS)
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != pinned:
        say(f"installing the peers into {folder}")
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEERS], check=True)
        write_text(stamp, pinned)
    return python


def versions(python: Path) -> dict[str, str]:
    """Return the installed versions of torch and the peers."""
    names = [re.split("[=<]", peer)[0] for peer in PEERS]
    code = f"from importlib.metadata import version\nprint(*map(version, {names}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return dict(zip(names, done.stdout.split(), strict=True))


def chosen(groups: Sequence[str] | None) -> tuple[Contest, ...]:
    """Return the contests of these groups: those with the name of a group, or with that name and a hyphen as prefix."""
    if not groups:
        return CONTESTS
    members = {
        group: [contest for contest in CONTESTS if f"{contest.name}-".startswith(f"{group}-")]
        for group in groups
    }
    unknown = [group for group, contests in members.items() if not contests]
    if unknown:
        names = ", ".join(contest.name for contest in CONTESTS)
        raise SystemExit(f"no such group: {', '.join(unknown)}; groups: {names}")
    return tuple(contest for contest in CONTESTS if any(contest in group for group in members.values()))


def measure(contests: Sequence[Contest], setting: Setting) -> Iterator[Record]:
    """Yield one record per contest, as soon as it is finished."""
    about = {
        "machine": machine(setting.threads, "cpu"),
        "versions": versions(setting.peers_python),
        "commit": commit(),
        "rounds": setting.rounds,
        "seconds": setting.seconds,
    }
    for contest in contests:
        cases = run_contest(contest, replace(setting, threads=1) if contest.is_one_thread else setting)
        for name, result in cases.items():
            say(f"{contest.name}: {name}: {result_text(result)}")
        measured = about | {"date": datetime.now(UTC).isoformat(timespec="seconds")}
        yield {"schema": 1, "contests": {contest.name: {"measured": measured, "cases": cases}}}


def result_text(result: Result) -> str:
    """Return a case's figures as text."""
    if "error" in result:
        return str(result["error"])
    size = f", {result['parameters']:,} parameters" if result.get("parameters") else ""
    note = f" ({result['note']})" if result.get("note") else ""
    return f"{range_of(rates(result)).median:,.1f} rows/s{size}{note}"


def say(text: str) -> None:
    """Write a line of progress to standard error."""
    sys.stderr.write(text + "\n")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--only", action="append", metavar="GROUP", help="measure this group only; may be repeated")
    add("--rounds", type=int, default=5)
    add("--seconds", type=float, default=2.5, help="a turn of training")
    add("--threads", type=int, default=2)
    add("--fuxictr", type=Path, metavar="PATH", help="a checkout of FuxiCTR's repository, for APG")
    add("--scenario-wise-rec", type=Path, metavar="PATH", help=f"a checkout of {SWR}")
    add("--peers-env", type=Path, default=ROOT / ".venv-peers", help="where the peers are installed")
    add("--results", type=Path, default=ROOT / "results" / "speed")
    add("--page", type=Path, default=ROOT / "docs" / "speed.md", help="page with the table")
    add("--report", action="store_true", help="only write the table again")
    add("--trial", action="store_true", help="one short round on few rows; nothing is written")
    return parser.parse_args()


def setting_of(arguments: argparse.Namespace, scratch: Path) -> Setting:
    """Return the settings that the arguments describe."""
    checkouts = {"fuxictr": arguments.fuxictr, "swr": arguments.scenario_wise_rec}
    return Setting(
        rounds=1 if arguments.trial else arguments.rounds,
        seconds=TRIAL_SECONDS if arguments.trial else arguments.seconds,
        threads=arguments.threads,
        peers_python=peers_python(arguments.peers_env),
        checkouts={name: str(path.resolve()) for name, path in checkouts.items() if path},
        scratch=scratch,
        share=TRIAL_SHARE if arguments.trial else 1.0,
    )


def record_file(results: Path, threads: int) -> Path:
    """Return the file for this type of machine, one level below run records, which are read as `*/*.json`."""
    name = f"{machine(threads, 'cpu')['cpu']} {threads} threads".lower()
    return results / re.sub(r"[^a-z0-9]+", "-", name).strip("-") / "speed.json"


def main() -> None:
    """Measure, record after each contest, and write the table of ratios."""
    arguments = parse_arguments()
    contests, file = chosen(arguments.only), record_file(arguments.results, arguments.threads)
    record = json.loads(file.read_text(encoding="utf-8")) if file.exists() and not arguments.trial else {}
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as scratch:
        for part in () if arguments.report else measure(contests, setting_of(arguments, Path(scratch))):
            record = merge(record, part)
            if not arguments.trial:
                write_text(file, json.dumps(record, indent=1) + "\n")
    if not record:
        raise SystemExit(f"no measurements: {file} does not exist")
    if arguments.trial:
        say(section(record))
    else:
        text = arguments.page.read_bytes().decode("utf-8")
        write_text(arguments.page, insert(text, section(record)))
        say(f"{file}\n{arguments.page}")


if __name__ == "__main__":
    main()
