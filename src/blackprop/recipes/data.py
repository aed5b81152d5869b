"""Data sets as their publishers ship them: a folder that the user names, or downloads kept in the user's cache."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from blackprop.errors import DataError

_CHUNK = 1 << 16  # bytes
_TIMEOUT = 30.0  # seconds without an answer


@dataclass(frozen=True)
class Published:
    """The files of a data set, all in one place.

    `name` is that of its folder; `url` ends in a slash; `md5` has the checksum of each file's compressed form,
    `<file>.gz`.
    """

    name: str
    url: str
    md5: dict[str, str]

    def files(self, data_dir: Path | None) -> dict[str, Path]:
        """Each file's path, with or without `.gz`: in `data_dir`, or `data_dir/<name>`, or in the cache.

        None is the cache, to which files are downloaded that it lacks, or holds with another checksum.
        """
        return self._downloaded() if data_dir is None else self._found(data_dir)

    def _found(self, data_dir: Path) -> dict[str, Path]:
        if not data_dir.is_dir():
            raise DataError(f"`--data-dir {data_dir}` is not a folder")
        folders = (data_dir, data_dir / self.name)
        found = max(({n: p for n in self.md5 if (p := _either(folder / n))} for folder in folders), key=len)
        missing = [name for name in self.md5 if name not in found]
        if missing:
            raise DataError(
                f"neither {folders[0]} nor {folders[1]} holds all files of {self.name}; missing, with or without .gz: "
                f"{', '.join(missing)}"
            )
        return found

    def _downloaded(self) -> dict[str, Path]:
        try:
            import pooch  # noqa: PLC0415  # extras, this and the next
            import rich.progress  # noqa: F401, PLC0415
        except ImportError as error:
            raise DataError(
                f"downloading {self.name} needs {error.name}: pip install 'blackprop[recipes]'; or get the files with "
                f"{self._by_hand()}"
            ) from error
        folder = Path(pooch.os_cache("blackprop")) / self.name
        found = {}
        with _progress() as bar, _quiet(pooch.get_logger()):
            for name, checksum in self.md5.items():
                # Any: pooch's annotations know neither a bar of one's own nor its own downloader.
                fetch: Any = pooch.HTTPDownloader(progressbar=bar(name), chunk_size=_CHUNK, timeout=_TIMEOUT)
                try:
                    path = pooch.retrieve(
                        f"{self.url}{name}.gz", f"md5:{checksum}", f"{name}.gz", folder, downloader=fetch
                    )
                except (OSError, ValueError) as error:  # no network, no permission, full disk; another checksum
                    raise DataError(
                        f"{name}.gz is not in {folder} and cannot be downloaded ({_reason(error)}). Where there is a "
                        f"network, get the files with {self._by_hand()}"
                    ) from error
                found[name] = Path(path)
        return found

    def _by_hand(self) -> str:
        url = f"{self.url}{{{','.join(self.md5)}}}.gz"
        return f'`curl -f --create-dirs --output-dir {self.name} -O "{url}"` and give `--data-dir {self.name}`'


class _Bar:
    """A file's progress in the terms that pooch has for it."""

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
    """Makes a bar for each file on a terminal, and none elsewhere."""
    from rich.console import Console  # noqa: PLC0415  # an extra
    from rich.progress import DownloadColumn, Progress  # noqa: PLC0415

    if not sys.stderr.isatty():
        yield lambda _: False
        return
    with Progress(*Progress.get_default_columns(), DownloadColumn(), console=Console(stderr=True)) as progress:

        def bar(name: str) -> _Bar:
            task = progress.add_task(f"{name}.gz", total=None, visible=False)
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
    zipped = path.with_name(f"{path.name}.gz")
    return next((p for p in (path, zipped) if p.is_file()), None)


def _reason(error: BaseException) -> str:
    """One short reason: what requests says of a connection is a paragraph."""
    if type(error).__module__.startswith("requests") and getattr(error, "response", None) is None:
        url = getattr(getattr(error, "request", None), "url", None)
        return f"no connection to {urlsplit(url).hostname}" if url else "no connection"
    return " ".join(str(error).split()) or type(error).__name__
