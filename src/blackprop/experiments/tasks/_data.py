"""Data sets in their published files, from a folder of the user or downloaded to the user's cache."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from blackprop._extras import install
from blackprop.errors import DataError

_CHUNK = 1 << 16  # bytes
_TIMEOUT = 30.0  # seconds without a response


@dataclass(frozen=True)
class Published:
    """A data set of several files at one address.

    - `name`: the name of its folder.
    - `url`: the address of the files, ending in a slash.
    - `md5`: for each file, the checksum of its compressed form `<file>.gz`.
    """

    name: str
    url: str
    md5: dict[str, str]

    def files(self, data_dir: Path | None) -> dict[str, Path]:
        """Return each file's path, in `data_dir` or `data_dir/<name>`.

        If `data_dir` is None, files are taken from the cache, and downloaded if missing or if the checksum differs.
        File names may end in `.gz`, and may have `.idx` in place of `-idx`, as some programs unpack them. Raises
        `DataError` if files are missing.
        """
        return self._downloaded() if data_dir is None else self._found(data_dir)

    def _found(self, data_dir: Path) -> dict[str, Path]:
        folders = (data_dir, data_dir / self.name)
        return _fullest(self.name, {f: {n: _either(f / n) for n in self.md5} for f in folders}, ", with or without .gz")

    def _downloaded(self) -> dict[str, Path]:
        with _downloads(self.name, self._by_hand()) as fetch:
            return {name: fetch(f"{self.url}{name}.gz", checksum) for name, checksum in self.md5.items()}

    def _by_hand(self) -> str:
        url = f"{self.url}{{{','.join(self.md5)}}}.gz"
        return f'`curl -f --create-dirs --output-dir {self.name} -O "{url}"` and use `--data-dir {self.name}`'


@dataclass(frozen=True)
class PublishedArchive:
    """A data set in one tar file, compressed or not, with its files in one folder.

    - `name`: the name of the data set's own folder.
    - `url`, `md5`: the address of the archive and its checksum.
    - `folder`, `names`: the folder in the archive, and the files to use from it.
    """

    name: str
    url: str
    md5: str
    folder: str
    names: tuple[str, ...]

    def files(self, data_dir: Path | None) -> dict[str, Path]:
        """Return each file's path, in `data_dir`, `data_dir/<folder>` or `data_dir/<name>/<folder>`.

        If `data_dir` is None, files are taken from the cache. The archive is downloaded and unpacked there if it is
        missing or if the checksum differs. Raises `DataError` if files are missing.
        """
        if data_dir is None:
            return self._downloaded()
        folders = (data_dir, data_dir / self.folder, data_dir / self.name / self.folder)
        return _fullest(self.name, {f: {n: p if (p := f / n).is_file() else None for n in self.names} for f in folders})

    def _downloaded(self) -> dict[str, Path]:
        with _downloads(self.name, self._by_hand()) as fetch:
            archive = fetch(self.url, self.md5)
        unpacked = archive.parent / self.folder
        try:
            self._unpack(archive, unpacked)
        except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
            raise DataError(f"{archive} cannot be unpacked to {unpacked} ({_reason(error)})") from error
        return {name: unpacked / name for name in self.names}

    def _unpack(self, archive: Path, unpacked: Path) -> None:
        """Unpack only the needed files, under names not taken from the archive, so that no file is written elsewhere.

        Each file is written under another name and then renamed, so it is complete or missing.
        """
        missing = [name for name in self.names if not (unpacked / name).is_file()]
        if not missing:
            return
        unpacked.mkdir(exist_ok=True)
        with tarfile.open(archive) as tar:
            held = {member.name: member for member in tar if member.isfile()}
            for name in missing:
                member = held.get(f"{self.folder}/{name}")
                content = None if member is None else tar.extractfile(member)
                if content is None:
                    raise DataError(f"{archive} does not contain the file {self.folder}/{name}")
                partial = unpacked / f"{name}.{os.getpid()}.part"
                with content, partial.open("wb") as file:
                    shutil.copyfileobj(content, file)
                partial.replace(unpacked / name)

    def _by_hand(self) -> str:
        archive = f"{self.name}/{self.url.rsplit('/', 1)[1]}"
        return (
            f'`curl -f --create-dirs -o {archive} "{self.url}" && tar -xf {archive} -C {self.name}` and use '
            f"`--data-dir {self.name}`"
        )


def _fullest(name: str, found: dict[Path, dict[str, Path | None]], forms: str = "") -> dict[str, Path]:
    """Return the files of the folder that holds all of them. `found` lists the files in each folder."""
    first, *_ = found
    if not first.is_dir():
        raise DataError(f"`--data-dir {first}` is not a folder")
    best = {n: path for n, path in max(found.values(), key=_held).items() if path is not None}
    missing = [file for file in found[first] if file not in best]
    if missing:
        *others, last = map(str, found)
        raise DataError(
            f"neither {', '.join(others)} nor {last} holds all files of {name}; missing{forms}: {', '.join(missing)}"
        )
    return best


def _held(paths: dict[str, Path | None]) -> int:
    return sum(path is not None for path in paths.values())


@contextmanager
def _downloads(name: str, by_hand: str) -> Iterator[Callable[[str, str], Path]]:
    """Return a function (url, MD5 checksum) -> path that downloads a file to the cache of the data set `name` if it is
    missing. `by_hand` tells how to get the files by hand.
    """
    try:
        import pooch  # noqa: PLC0415  # both are extras
        import rich.progress  # noqa: F401, PLC0415
    except ImportError as error:
        raise DataError(
            f"downloading {name} needs {error.name}: {install('recipes')}; or get the files with {by_hand}"
        ) from error
    folder = Path(pooch.os_cache("blackprop")) / name
    with _progress() as bar, _quiet(pooch.get_logger()):

        def fetch(url: str, checksum: str) -> Path:
            file = url.rsplit("/", 1)[1]
            # Any: pooch's annotations allow neither a custom progress bar nor its own downloader.
            downloader: Any = pooch.HTTPDownloader(progressbar=bar(file), chunk_size=_CHUNK, timeout=_TIMEOUT)
            try:
                return Path(pooch.retrieve(url, f"md5:{checksum}", file, folder, downloader=downloader))
            except (OSError, ValueError) as error:  # no network, no permission, full disk or wrong checksum
                raise DataError(
                    f"{file} is not in {folder} and cannot be downloaded ({_reason(error)}). On a machine with a "
                    f"network connection, get the files with {by_hand}"
                ) from error

        yield fetch


class _Bar:
    """The progress bar of a file, with the interface that pooch expects."""

    total = 0

    def __init__(self, show: Callable[[int, int], None]) -> None:
        self._show, self._done = show, 0

    def update(self, n: int) -> None:
        self._done = min(self._done + n, self.total)
        self._show(self._done, self.total)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        pass


@contextmanager
def _progress() -> Iterator[Callable[[str], Any]]:
    """Make a progress bar for each file on a terminal, and none elsewhere."""
    from rich.console import Console  # noqa: PLC0415  # an extra
    from rich.progress import DownloadColumn, Progress  # noqa: PLC0415

    if not sys.stderr.isatty():
        yield lambda _: False
        return
    with Progress(*Progress.get_default_columns(), DownloadColumn(), console=Console(stderr=True)) as progress:

        def bar(name: str) -> _Bar:
            task = progress.add_task(name, total=None, visible=False)
            return _Bar(lambda done, total: progress.update(task, completed=done, total=total, visible=True))

        yield bar


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _either(path: Path) -> Path | None:
    names = (path.name, path.name.replace("-idx", ".idx"))
    forms = (path.with_name(f"{name}{end}") for name in names for end in ("", ".gz"))
    return next((form for form in forms if form.is_file()), None)


def _reason(error: BaseException) -> str:
    """Return a short reason, because the connection errors of requests are a paragraph long."""
    if type(error).__module__.startswith("requests") and getattr(error, "response", None) is None:
        url = getattr(getattr(error, "request", None), "url", None)
        return f"no connection to {urlsplit(url).hostname}" if url else "no connection"
    return " ".join(str(error).split()) or type(error).__name__
