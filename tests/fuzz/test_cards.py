"""Cards and studies: keys, values, types and structure changed, or bytes of the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz_judge import Judge
from fuzz_values import cases, mutated_bytes, mutated_trees, to_toml
from fuzz_world import CARD, ROWS, SMALL, STUDY, World
from hypothesis import given
from hypothesis import strategies as st

from ctrbench.data.home import prepared_names
from ctrbench.data.prepared import open_prepared

TEXT = to_toml(CARD).encode()


def verify_prepared(_outcome: object) -> None:
    """Check the files of every dataset in the home folder, and that no row is lost."""
    for name in prepared_names():
        prepared = open_prepared(name)
        prepared.verify()
        assert sum(split.rows for split in prepared.manifest.splits.values()) > 0


def prepare(world: World, judge: Judge, content: bytes) -> None:
    with world.case() as folder:
        Path("new.toml").write_bytes(content)
        judge(folder, "prepare", "new.toml", verify=verify_prepared, case=content)


@cases(24)
@given(card=mutated_trees({**CARD, "name": "new"}))
def test_trees(world: World, judge: Judge, card: dict[str, object]) -> None:
    prepare(world, judge, to_toml(card).encode("utf-8", "surrogatepass"))


@cases(10)
@given(content=mutated_bytes(TEXT))
def test_bytes(world: World, judge: Judge, content: bytes) -> None:
    prepare(world, judge, content)


@cases(5)
@given(order=st.permutations(list(CARD)), title=st.text(max_size=5))
def test_an_equal_card_gives_equal_data(world: World, judge: Judge, order: list[str], title: str) -> None:
    with world.case() as folder:
        text = to_toml({name: CARD[name] for name in order})
        Path("tiny.toml").write_text(f"# {''.join(filter(str.isprintable, title))}\n{text}", encoding="utf-8")
        before = open_prepared("tiny").manifest.content_digest
        judge(folder, "prepare", "tiny.toml", "--force", legal=(0,), verify=verify_prepared)
        assert open_prepared("tiny").manifest.content_digest == before
        assert sum(split.rows for split in open_prepared("tiny").manifest.splits.values()) == ROWS


@cases(10)
@given(study=mutated_trees(STUDY), is_dry=st.booleans())
def test_studies(world: World, judge: Judge, study: dict[str, object], is_dry: bool) -> None:
    with world.case() as folder:
        Path("new.toml").write_bytes(to_toml(study).encode("utf-8", "surrogatepass"))
        options = ("--dry-run",) if is_dry else ()
        judge(folder, "study", "new.toml", *options, legal=(0, 1, 2), case=study)


@pytest.mark.parametrize("command", ["run", "report"])
def test_an_unchanged_world_is_accepted(world: World, judge: Judge, command: str) -> None:
    with world.case() as folder:
        judge(folder, command, *(SMALL if command == "run" else ()), legal=(0,))
