"""Raw archives and folders: damaged bytes, members and truth files."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from fuzz_judge import Judge
from fuzz_values import cases, mutated_bytes
from fuzz_world import MOVIELENS, World
from hypothesis import given
from hypothesis import strategies as st

from ctrbench.data.home import prepared_names
from ctrbench.data.prepared import open_prepared

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
RAW = ("round1_ijcai_18_train_20180301.txt", "round2_train.txt")


def verify_all(_outcome: object) -> None:
    for name in prepared_names():
        open_prepared(name).verify()


def archive(members: dict[str, bytes], method: int) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as file:
        for name, text in members.items():
            file.writestr(f"ml-1m/{name}", text)
    return content.getvalue()


@cases(8)
@given(values=st.data(), method=st.sampled_from(METHODS))
def test_bytes_of_an_archive(world: World, judge: Judge, values: st.DataObject, method: int) -> None:
    whole = archive({name: text.encode("latin-1") for name, text in MOVIELENS.items()}, method)
    content = values.draw(mutated_bytes(whole))
    with world.case() as folder:
        Path("new.zip").write_bytes(content)
        judge(folder, "prepare", "movielens-1m", "--source", "new.zip", verify=verify_all, case=content)


@cases(8)
@given(values=st.data(), member=st.sampled_from(list(MOVIELENS)), is_left_out=st.booleans())
def test_members(world: World, judge: Judge, values: st.DataObject, member: str, is_left_out: bool) -> None:
    members = {name: text.encode("latin-1") for name, text in MOVIELENS.items()}
    text = members.pop(member)
    if not is_left_out:
        members[member] = values.draw(mutated_bytes(text))
    with world.case() as folder:
        Path("new.zip").write_bytes(archive(members, zipfile.ZIP_DEFLATED))
        judge(folder, "prepare", "movielens-1m", "--source", "new.zip", verify=verify_all, case=members)


@cases(12)
@given(
    values=st.data(),
    name=st.sampled_from((*RAW, f"{RAW[0]}.truth.parquet", f"{RAW[1]}.truth.parquet")),
    form=st.sampled_from(("bytes", "bytes", "bytes", "folder", "missing", "zip")),
)
def test_twin(world: World, judge: Judge, values: st.DataObject, name: str, form: str) -> None:
    content = values.draw(mutated_bytes((world.template / "raw" / name).read_bytes()))
    with world.case() as folder:
        file = Path("raw") / name
        file.unlink()
        if form == "bytes":
            file.write_bytes(content)
        elif form == "folder":
            file.mkdir()
        elif form == "zip":
            with zipfile.ZipFile(file.with_suffix(".zip"), "w", zipfile.ZIP_LZMA) as whole:
                whole.writestr(file.name, content)
        judge(folder, "prepare", "iaac", "--source", "raw", verify=verify_all, case=(name, form, content))
