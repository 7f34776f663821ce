"""Records, manifests and checkpoints: changed by hand, damaged, renamed, or given the right sha256 after a change."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from fuzz_judge import Judge
from fuzz_values import cases, mutated_bytes, mutated_trees
from fuzz_world import SMALL, Outcome, World
from hypothesis import given
from hypothesis import strategies as st

from ctrbench.data.prepared import open_prepared
from ctrbench.runs.store import read_record
from ctrbench.storage.checksummed import with_checksum, without_checksum

RUN = ("run", *SMALL, "--methods", "plain,star[norm=none,aux=none]")
READERS = ((*RUN, "--dry-run"), (*RUN, "--dry-run"), RUN, RUN, ("report", "--bins", "2"))
"""Commands that read records."""
OPENERS = (
    (*RUN, "--dry-run"),
    (*RUN, "--dry-run", "--domains", "user"),
    ("explain", "plain"),
    ("list", "datasets"),
    ("prepare", "tiny.toml"),
    ("show", "tiny"),
)
"""Commands that read manifests."""
FORMS = ("file", "folder", "loop", "dangling link", "pipe", "none")


def records_are_true(world: World, _outcome: Outcome) -> None:
    """Check that every finished record of a known run is the one of an undisturbed run."""
    for name, content in world.records.items():
        file = Path("results/tiny").absolute() / name
        if file.exists():
            record = read_record(file)
            assert record.status != "finished" or record.reproducible() == content


def json_bytes(tree: object) -> bytes:
    return json.dumps(tree).encode("utf-8", "surrogatepass")


def replace(file: Path, form: str, content: bytes = b"") -> None:
    """Replace a file by something else of its name."""
    file.unlink()
    if form == "file":
        file.write_bytes(content)
    elif form == "folder":
        file.mkdir()
    elif form in ("loop", "dangling link"):
        file.symlink_to(file.name if form == "loop" else "nowhere")
    elif form == "pipe":
        os.mkfifo(file)


@cases(24)
@given(
    values=st.data(),
    command=st.sampled_from(READERS),
    is_checksummed=st.booleans(),
    method=st.sampled_from(("plain", "star")),
)
def test_trees_of_records(
    world: World,
    judge: Judge,
    values: st.DataObject,
    command: tuple[str, ...],
    is_checksummed: bool,
    method: str,
) -> None:
    with world.case() as folder:
        (file,) = Path("results/tiny").glob(f"{method}-*.json")
        tree = values.draw(mutated_trees(without_checksum(json.loads(file.read_bytes()))))
        if not isinstance(tree, dict):
            tree = {"tree": tree}
        sha256 = json.loads(file.read_bytes())["sha256"]
        file.write_bytes(json_bytes(with_checksum(tree) if is_checksummed else {**tree, "sha256": sha256}))
        verify = None if is_checksummed else partial(records_are_true, world)
        judge(folder, *command, verify=verify, case=tree)


@cases(16)
@given(values=st.data(), command=st.sampled_from(READERS))
def test_bytes_of_records(
    world: World, judge: Judge, values: st.DataObject, command: tuple[str, ...]
) -> None:
    with world.case() as folder:
        (file,) = Path("results/tiny").glob("plain-*.json")
        content = values.draw(mutated_bytes(file.read_bytes()))
        file.write_bytes(content)
        judge(folder, *command, verify=partial(records_are_true, world), case=content)


@cases(10)
@given(
    form=st.sampled_from(FORMS),
    name=st.sampled_from(
        ("star", "record (1).json", "plain-dnn-s2-0123456789ab.json", ".hidden.json", "..json")
    ),
    is_moved=st.booleans(),
    command=st.sampled_from(READERS),
)
def test_names_of_records(
    world: World, judge: Judge, form: str, name: str, is_moved: bool, command: tuple[str, ...]
) -> None:
    """A record copied or moved to the name of another one, and other things of a record's name."""
    with world.case() as folder:
        (plain,), (star,) = (
            list(Path("results/tiny").glob(f"{method}-*.json")) for method in ("plain", "star")
        )
        target = star if name == "star" else plain.with_name(name)
        if form == "file":
            shutil.copy(plain, target)
            if is_moved:
                plain.unlink()
        else:
            target.touch()
            replace(target, form)
        judge(folder, *command, verify=partial(records_are_true, world), case=(form, name, is_moved))


@cases(10)
@given(
    values=st.data(), form=st.sampled_from(("bytes", "bytes", *FORMS)), command=st.sampled_from(READERS[2:])
)
def test_predictions(
    world: World, judge: Judge, values: st.DataObject, form: str, command: tuple[str, ...]
) -> None:
    with world.case() as folder:
        file = values.draw(st.sampled_from(sorted(Path("home/runs").glob("*/predictions.parquet"))))
        content = values.draw(mutated_bytes(file.read_bytes()))
        replace(file, "file" if form == "bytes" else form, content)
        judge(folder, *command, verify=partial(records_are_true, world), case=(form, content))


@cases(24)
@given(values=st.data(), command=st.sampled_from(OPENERS), is_checksummed=st.booleans())
def test_trees_of_manifests(
    world: World, judge: Judge, values: st.DataObject, command: tuple[str, ...], is_checksummed: bool
) -> None:
    with world.case() as folder:
        file = Path("home/datasets/tiny/manifest.json")
        content = json.loads(file.read_bytes())
        tree = values.draw(mutated_trees(without_checksum(content)))
        if not isinstance(tree, dict):
            tree = {"tree": tree}
        whole = with_checksum(tree) if is_checksummed else {**tree, "sha256": content["sha256"]}
        file.write_bytes(json_bytes(whole))
        verify = None if is_checksummed or whole == content else refuses_the_manifest(command)
        judge(folder, *command, verify=verify, case=tree)


def refuses_the_manifest(command: tuple[str, ...]) -> Callable[[Outcome], None] | None:
    """Only commands that repair or that need no dataset accept a damaged manifest."""

    def refuse(_outcome: Outcome) -> None:
        raise AssertionError("a changed manifest is believed")

    return None if command[0] in ("prepare", "list", "explain") else refuse


@cases(16)
@given(
    values=st.data(),
    command=st.sampled_from(OPENERS),
    form=st.sampled_from(("bytes", "bytes", "bytes", *FORMS)),
)
def test_bytes_of_manifests(
    world: World, judge: Judge, values: st.DataObject, command: tuple[str, ...], form: str
) -> None:
    with world.case() as folder:
        file = Path("home/datasets/tiny/manifest.json")
        content = values.draw(mutated_bytes(file.read_bytes()))
        replace(file, "file" if form == "bytes" else form, content)
        judge(folder, *command, case=(form, content))


@cases(10)
@given(values=st.data(), form=st.sampled_from(("bytes", "bytes", *FORMS)))
def test_preparing_again_repairs(world: World, judge: Judge, values: st.DataObject, form: str) -> None:
    with world.case() as folder:
        digest = open_prepared("tiny").manifest.content_digest
        files = [path for path in sorted(Path("home/datasets/tiny").rglob("*")) if path.is_file()]
        file = values.draw(st.sampled_from(files))
        content = values.draw(mutated_bytes(file.read_bytes()))
        replace(file, "file" if form == "bytes" else form, content)
        judge(folder, *RUN, "--dry-run", case=(file, form))
        judge(folder, *RUN, "--seeds", "2", legal=(0, 1, 2), case=(file, form))
        if file.name == "manifest.json" and form == "folder":
            judge(folder, "prepare", "tiny.toml", "--force", legal=(2,), case=(file, form))
            return
        judge(folder, "prepare", "tiny.toml", "--force", legal=(0,), case=(file, form))
        assert open_prepared("tiny").manifest.content_digest == digest
        open_prepared("tiny").verify()
        judge(folder, *RUN, legal=(0,), verify=partial(records_are_true, world), case=(file, form))


@cases(16)
@given(values=st.data(), form=st.sampled_from(("bytes", "bytes", "bytes", "bytes", *FORMS)))
def test_bytes_of_checkpoints(world: World, judge: Judge, values: st.DataObject, form: str) -> None:
    """A damaged checkpoint is not used: training starts over and ends with the same result."""
    with world.case() as folder:
        (file,) = Path("home/runs").glob("*/checkpoint.pt")
        content = values.draw(mutated_bytes(file.read_bytes()))
        replace(file, "file" if form == "bytes" else form, content)
        run = ("run", *SMALL, "--methods", "stops.py")
        # Something that is not a file stays where it is, so the run cannot write its own.
        legal = (0,) if form in ("bytes", "file", "none") else (0, 1, 2)
        judge(folder, *run, legal=legal, verify=partial(records_are_true, world), case=(form, content))


@cases(16)
@given(values=st.data())
def test_states_of_checkpoints(world: World, judge: Judge, values: st.DataObject) -> None:
    """A checkpoint with a valid digest and a state of another form: the run ends all the same."""
    with world.case() as folder:
        (file,) = Path("home/runs").glob("*/checkpoint.pt")
        state = torch.load(io.BytesIO(file.read_bytes()[:-32]), weights_only=True)
        names = [name for name in state if name not in ("format", "run")]
        name = values.draw(st.sampled_from(names))
        state[name] = values.draw(st.sampled_from((None, 0, [], {}, "x", float("nan"), torch.zeros(3))))
        if values.draw(st.booleans()):
            del state[name]
        stream = io.BytesIO()
        torch.save(state, stream)
        file.write_bytes(stream.getvalue() + hashlib.sha256(stream.getvalue()).digest())
        run = ("run", *SMALL, "--methods", "stops.py")
        # The digest fits, so a state of the right form is believed.
        judge(folder, *run, legal=(0,), case=(name, repr(state.get(name))))
