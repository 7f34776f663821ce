from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ctrbench.errors import CtrbenchError, DataError, SettingError, StoreError
from ctrbench.storage import cloud
from ctrbench.storage.files import (
    find_files,
    is_file,
    local_copy,
    move_folder,
    parse_location,
    read_text,
    remove_file,
    replacing,
    write_text,
)

if TYPE_CHECKING:
    from upath import UPath


# Raised by Google's library for objects above 1 MiB.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")


@pytest.fixture
def location(bucket: str) -> UPath:
    location = parse_location(f"{bucket}/deep/folder")
    assert not isinstance(location, Path)
    return location


@pytest.fixture
def fresh() -> Iterator[None]:
    """Forget cached connections before and after the test."""
    s3fs = pytest.importorskip("s3fs", reason="needs the extra cloud")
    for _ in range(2):
        cloud.connect.cache_clear()
        s3fs.S3FileSystem.clear_instance_cache()
        if _ == 0:
            yield


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def cached() -> list[str]:
    return sorted(file.name for file in cloud.cache_folder().iterdir())


def test_a_text_at_a_url_is_read_back(location: UPath) -> None:
    write_text(location / "a" / "b.txt", "grün\r\n")
    assert read_text(location / "a" / "b.txt") == "grün\r\n"
    assert [str(file) for file in find_files(location, "*/*.txt")] == [f"{location}/a/b.txt"]
    remove_file(location / "a" / "b.txt")
    assert not is_file(location / "a" / "b.txt")


def test_files_of_other_writers_are_visible_at_once(location: UPath, tmp_path: Path) -> None:
    write_text(location / "a.txt", "1")
    assert len(find_files(location, "*.txt")) == 1
    # Bypasses the cache of this process, as another machine would.
    (tmp_path / "b").write_text("2")
    type(location.fs)(skip_instance_cache=True).put_file(str(tmp_path / "b"), (location / "b.txt").path)
    assert is_file(location / "b.txt")
    assert len(find_files(location, "*.txt")) == 2


def fail_halfway(file: UPath) -> None:
    with replacing(file) as part:
        part.write_text("half")
        raise KeyError


def test_a_failure_leaves_the_old_object_and_no_local_file(location: UPath) -> None:
    write_text(location / "a.txt", "old")
    with pytest.raises(KeyError):
        fail_halfway(location / "a.txt")
    assert read_text(location / "a.txt") == "old"
    assert cached() == []


def test_an_object_appears_when_it_is_complete(location: UPath) -> None:
    with replacing(location / "large.bin") as part:
        part.write_bytes(os.urandom(1 << 20))
        assert not is_file(location / "large.bin")
        expected = hashlib.sha256(part.read_bytes()).hexdigest()
    with local_copy(location / "large.bin") as path:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == expected


@pytest.mark.parametrize("where", ["tmp_path", "s3_bucket"])
def test_one_of_many_writers_of_a_new_file_succeeds(request: pytest.FixtureRequest, where: str) -> None:
    folder = parse_location(request.getfixturevalue(where))

    def write(writer: int) -> bool:
        try:
            write_text(folder / "new.txt", str(writer) * 5000, is_new=True)
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, range(8)))
    assert sum(won) == 1
    assert read_text(folder / "new.txt") == str(won.index(True)) * 5000


def test_new_files_work_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "no hard links")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    write_text(tmp_path / "a.txt", "first", is_new=True)
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "a.txt", "second", is_new=True)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["first"]


def count_fetches(location: UPath, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    fetched: list[str] = []
    get = location.fs.get_file

    def counted(remote: str, local: str) -> None:
        fetched.append(remote)
        get(remote, local)

    monkeypatch.setattr(location.fs, "get_file", counted)
    return fetched


def test_a_copy_with_known_digest_is_downloaded_once(
    location: UPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_text(location / "a.parquet", "shard")
    fetched = count_fetches(location, monkeypatch)
    for _ in range(3):
        with local_copy(file, digest("shard")) as path:
            assert path.read_text() == "shard"
    assert len(fetched) == 1
    assert cached() == [f"{digest('shard')}.parquet"]


def test_a_damaged_copy_is_downloaded_again(location: UPath) -> None:
    file = write_text(location / "a.parquet", "shard")
    with local_copy(file, digest("shard")) as path:
        pass
    path.write_text("other")
    with local_copy(file, digest("shard")) as again:
        assert again.read_text() == "shard"


def test_a_copy_with_a_wrong_digest_is_not_cached(location: UPath) -> None:
    file = write_text(location / "a.parquet", "damaged")
    with local_copy(file, digest("shard")) as path:
        assert path.read_text() == "damaged"
    assert cached() == []


def test_a_copy_without_digest_is_downloaded_each_time(
    location: UPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_text(location / "a.pt", "1")
    fetched = count_fetches(location, monkeypatch)
    for _ in range(2):
        with local_copy(file):
            pass
    assert len(fetched) == 2
    assert cached() == []


def read_all(folder: UPath, texts: list[str]) -> None:
    for text in texts:
        with local_copy(write_text(folder / text, text), digest(text)) as path:
            assert path.read_text() == text


def test_cached_copies_respect_the_size_limit(location: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTRBENCH_CACHE_BYTES", "9")
    read_all(location, ["aaaa", "bbbb", "cccc"])
    # The first two copies stay, since every epoch reads them again; the third is downloaded each time.
    assert cached() == sorted([digest("aaaa"), digest("bbbb")])


def test_unused_copies_are_evicted(location: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTRBENCH_CACHE_BYTES", "9")
    read_all(location, ["aaaa", "bbbb"])
    long_ago = time.time() - 2 * cloud.UNUSED_SECONDS
    os.utime(cloud.cache_folder() / digest("aaaa"), (long_ago, long_ago))
    read_all(location, ["cccc"])
    assert cached() == sorted([digest("bbbb"), digest("cccc")])


def test_leftover_transfers_are_removed_after_a_day(location: UPath) -> None:
    for name, age in (("transfer-old", 2 * cloud.UNUSED_SECONDS), ("transfer-new", 0.0)):
        write_text(cloud.cache_folder() / name / "half.pt", "half")
        then = time.time() - age
        os.utime(cloud.cache_folder() / name, (then, then))
    write_text(location / "a.txt", "1")
    assert cached() == ["transfer-new"]


@pytest.mark.parametrize("where", ["tmp_path", "s3_bucket", "gs_bucket"])
def test_a_missing_file_is_missing_in_every_storage(request: pytest.FixtureRequest, where: str) -> None:
    file = parse_location(request.getfixturevalue(where)) / "none.txt"
    with pytest.raises(FileNotFoundError):
        read_text(file)
    with pytest.raises(FileNotFoundError), local_copy(file, "0" * 64):
        pass
    assert not is_file(file)
    remove_file(file)


def make_folder(folder: Path, *names: str) -> Path:
    for name in names:
        write_text(folder / name, f"new {name}")
    return folder


def test_a_folder_replaces_another(location: UPath, tmp_path: Path) -> None:
    for name in ("end.json", "x/1.txt", "x/old.txt"):
        write_text(location / "data" / name, "old")
    move_folder(
        make_folder(tmp_path / "data", "end.json", "x/1.txt", "x/2.txt"), location / "data", last="end.json"
    )
    contents = {str(file): read_text(file) for file in find_files(location, "**/*") if is_file(file)}
    names = ("end.json", "x/1.txt", "x/2.txt")
    assert contents == {f"{location}/data/{name}": f"new {name}" for name in names}


def test_an_incomplete_upload_has_no_last_file(
    location: UPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(location / "data" / "end.json", "old")
    folder = make_folder(tmp_path / "data", "end.json", "x/1.txt")

    def broken(*_: object, **__: object) -> None:
        raise TimeoutError("cut")

    monkeypatch.setattr(location.fs, "put", broken)
    with pytest.raises(StoreError, match=r"cut.*run the same command again"):
        move_folder(folder, location / "data", last="end.json")
    assert find_files(location, "data/*.json") == []


def test_paths_and_file_urls_are_local_paths(tmp_path: Path) -> None:
    assert parse_location("results") == Path.cwd() / "results"
    assert parse_location("~/x") == Path.home() / "x"
    assert parse_location(tmp_path) == tmp_path
    assert parse_location(f"file://{tmp_path}/a") == tmp_path / "a"


@pytest.mark.parametrize("url", ["s3://", "s3:///"])
def test_a_url_without_bucket_is_refused(url: str) -> None:
    with pytest.raises(SettingError, match="must name a bucket"):
        parse_location(url)


def test_trailing_slashes_are_ignored(bucket: str) -> None:
    assert str(parse_location(f"{bucket}/a/")) == f"{bucket}/a"
    assert str(parse_location(f"{bucket}/") / "a") == f"{bucket}/a"


def test_a_missing_bucket_is_an_error_with_a_remedy(bucket: str) -> None:
    wrong = f"{bucket[:5]}no-such-bucket-{bucket[-6:]}/results"
    with pytest.raises(StoreError, match=rf"{wrong}.*name an existing bucket"):
        parse_location(wrong)


@pytest.mark.usefixtures("s3_bucket", "fresh")
def test_missing_credentials_are_an_error_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StoreError, match=r"Unable to locate credentials.*AWS_ACCESS_KEY_ID"):
        parse_location("s3://bucket/results")


@pytest.mark.usefixtures("s3_bucket", "fresh")
def test_an_unreachable_server_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:9.*check the network"):
        parse_location("s3://bucket/results")


@pytest.mark.parametrize(
    ("missing", "url"), [("upath", "s3://b/x"), ("s3fs", "s3://b/x"), ("gcsfs", "gs://b/x")]
)
def test_a_missing_extra_is_an_error_with_a_remedy(missing: str, url: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        f"from ctrbench.storage.files import parse_location; parse_location({url!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ctrbench.errors.StoreError: remote storage requires an optional dependency")
    assert last.endswith("pip install 'ctrbench[cloud]'")


def test_log_messages_of_libraries_are_not_printed(gs_bucket: str) -> None:
    code = f"""
import logging
from ctrbench.storage.files import parse_location
parse_location({gs_bucket!r})
logging.getLogger("gcsfs").error("message")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("url", ["what://bucket/results", "http://host/results", "memory://a", "://b"])
def test_an_unknown_kind_of_storage_is_refused(url: str) -> None:
    with pytest.raises(SettingError, match=rf"unsupported kind of storage: {url}.*s3://"):
        parse_location(url)


def test_a_refused_write_is_an_error_with_a_remedy(location: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(location.fs, "put_file", refuse)
    with pytest.raises(CtrbenchError, match=r"a\.txt \(PermissionError: Access Denied\).*credentials"):
        write_text(location / "a.txt", "1")


def test_a_full_disk_during_a_download_is_an_error_with_a_remedy(
    location: UPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(location.fs, "get_file", full)
    with pytest.raises(DataError, match=r"no space left.*CTRBENCH_CACHE"), local_copy(location / "a"):
        pass
