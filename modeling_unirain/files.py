"""Files that are complete or absent, whatever happens: written under a temporary name, flushed to the disk, renamed.

Beside them: folders that one run has to itself, walking folders that hold links, and names that are no text."""

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any


try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None


logger = logging.getLogger(__name__)

PART = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.part")
"""Names of files that are being written, or were when their process was killed."""

LONGEST_NAME = 240
"""Bytes of a file's name that leave room for what a temporary name adds; file systems allow 255."""


class WriteError(OSError):
    """A file that could not be written; the message is one sentence that names it, without the number in front."""

    def __str__(self) -> str:
        return self.strerror


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to, renamed to `path` at the end of the block; after an error nothing is left.

    The folder is made. What an earlier, killed process left behind of the same file is removed; what another one is writing is
    not, and the last to be complete has the name.
    """
    name = _name_in_temporary(path.name)
    temporary = path.with_name(f".{name}.{secrets.token_hex(4)}.part")
    _make_folder(path.parent)
    for leftover in _leftovers(path.parent.absolute()).get(name, []):
        if not _is_being_written(leftover):
            leftover.unlink(missing_ok=True)
    try:
        with _marked_as_being_written(temporary):
            yield temporary
            _flush(temporary)
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file, complete or absent whatever happens (`written`), with one sentence where that fails."""
    write_together({path: data})


def write_together(files: dict[Path, bytes]) -> None:
    """`write_atomically` for several: they get their names when all of them are on the disk."""
    try:
        with contextlib.ExitStack() as stack:
            for path, data in files.items():
                stack.enter_context(written(path)).write_bytes(data)
    except OSError as error:
        failed = error.filename2 or path  # of files that are all there, the one that could not be renamed
        raise WriteError(error.errno, f"{failed} could not be written: {error.strerror}.") from error


@contextlib.contextmanager
def lock_of(folder: Path, is_inherited: bool) -> Iterator[bool]:
    """Lock a folder, which is made, until the end of the block; gives `False` if another has its lock.

    The lock is on the file `.lock`, which stays and means nothing. The system lets go of it when the process ends, however it does.
    On Windows nobody is kept out.

    Args:
        is_inherited (`bool`): the lock keeps others of this process out too, and is held on by forked workers that outlive it
            (flock's kind); or neither (lockf's).

    Raises:
        WriteError: The folder cannot be written to.
    """
    try:
        _make_folder(folder)
        file = (folder / ".lock").open("ab")
    except OSError as error:
        raise WriteError(error.errno, f"{folder} cannot be written to: {error.strerror}.") from error
    with file:
        is_ours = True
        if fcntl is not None:
            lock = fcntl.flock if is_inherited else fcntl.lockf
            try:
                lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                is_ours = error.errno not in (errno.EACCES, errno.EAGAIN)
                if is_ours:  # some file systems of clusters know no locks
                    logger.warning("%s cannot be locked (%s): start no second run there", folder, error.strerror)
        yield is_ours


def folders_below(root: Path, leave_out: Path | None = None) -> Iterator[Path]:
    """`root` and all folders below it, save hidden ones, `leave_out` and those that may not be read.

    Links are followed, also from one folder below `root` to another, which then comes by both names; not back to what contains
    `root` or the link. Behind a link, another is followed to what none has led to before, so that links in a circle end.
    """
    here, left_out = root.resolve(), leave_out and leave_out.resolve()
    followed: list[Path] = []

    def is_wanted(folder: Path, behind_a_link: bool) -> bool:
        place = folder.resolve()
        if folder.name.startswith(".") or place == left_out:
            return False
        if folder.is_symlink():
            if any(inner.is_relative_to(place) for inner in (here, folder.parent.resolve())):
                return False
            if behind_a_link and any(place.is_relative_to(known) or known.is_relative_to(place) for known in followed):
                return False
            followed.append(place)
        return True

    for folder, subfolders, _ in os.walk(root, followlinks=True):
        behind_a_link = Path(folder).resolve() != here / Path(folder).relative_to(root)
        subfolders[:] = [name for name in sorted(subfolders) if is_wanted(Path(folder, name), behind_a_link)]
        yield Path(folder)


def as_path(text: str | Path) -> Path:
    """`~` is the home folder, and what only begins with it (`~moose.jpg`) is taken as it is."""
    return Path(os.path.expanduser(text))


def as_text(name: str) -> str:
    """A name as tables, JSON and pages can hold it. Python stands a surrogate for each byte of a file name that is not UTF-8
    (from an old zip, say): it is written out here, `a\\udce8.jpg`; so is half a character that a model's JSON holds. Other names
    and texts stay as they are."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write plain values, and as texts those that JSON does not know."""
    with written(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def replace_folder(temporary: Path, folder: Path) -> None:
    """Rename a finished folder over another, which is removed only when the new one has its name."""
    for file in temporary.rglob("*"):
        if file.is_file():
            _flush(file)
    old = folder.with_name(f"{folder.name}.old.tmp")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    temporary.rename(folder)
    if old.exists():  # also one that a kill between the two names left
        shutil.rmtree(old)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # which would be taken for a file in it
        raise NotADirectoryError(errno.ENOTDIR, f"{folder} is a file, not a folder") from error


def _name_in_temporary(name: str) -> str:
    encoded = os.fsencode(name)
    return name if len(encoded) <= LONGEST_NAME else hashlib.sha256(encoded).hexdigest()


@contextlib.contextmanager
def _marked_as_being_written(temporary: Path) -> Iterator[None]:
    """Holds a lock on the file, which the system lets go of when the process is killed. Of flock's kind, since others end when the
    process closes the file a first time."""
    if fcntl is None:
        yield
        return
    with temporary.open("xb") as file:
        with contextlib.suppress(OSError):  # some file systems have no locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _is_being_written(temporary: Path) -> bool:
    """Where that cannot be known, it may be."""
    if fcntl is None:
        return False
    try:
        with temporary.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _flush(file: Path) -> None:
    with file.open("r+b") as handle:  # Windows flushes nothing that is only read
        os.fsync(handle.fileno())


@functools.lru_cache(maxsize=64)
def _leftovers(folder: Path) -> dict[str, list[Path]]:
    """Half files in a folder at the first write to it, by the name they were to get; listing it for every file would take
    quadratic time."""
    found: dict[str, list[Path]] = {}
    for file in folder.glob(".*.part"):
        if match := PART.fullmatch(file.name):
            found.setdefault(match["name"], []).append(file)
    return found
