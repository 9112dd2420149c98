"""Archives of hand-ins: packing one's own, and reading those of others, however they are wrapped."""

import os
import stat
import tarfile
import zipfile
from collections.abc import Iterable
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import partial
from pathlib import Path, PurePosixPath

from common import UserError, printable
from common.checkpoints import atomic_write, one_line

NOT_HANDED_IN = ("flowers", "mnist", ".git", "__pycache__", "LastModel_*", "*.tmp", "*.zip", ".DS_Store")
NOT_HANDED_IN += ("replaced", "synthetic", ".ipynb_checkpoints", ".hypothesis", "BestModel_*_given?.pth")
NOT_HANDED_IN += ("playground.html",)
MARKERS = ("CACHEDIR.TAG", "pyvenv.cfg", "conda-meta")  # what caches and virtual environments hold

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
NOT_SUPPORTED = {b"Rar!": ".rar", b"7z\xbc\xaf": ".7z"}  # {how the file begins: its suffix}
SUFFIXES = (*ARCHIVES, *NOT_SUPPORTED.values())
RESULTS = ("model", "models", "log", "logs", "vis")  # folders that hold the wanted files, in lower case
MAX_FILE = 64 * 2**20  # bytes of a wanted file
MAX_ARCHIVE = 512 * 2**20  # bytes of an archive inside another, or inside a folder
CHUNK = 2**20  # bytes that are read at a time
MAX_INNER = 5  # archives inside another
MAX_DIRECTORY = 16 * 2**20  # bytes of a zip archive's list of files: about 100,000 of them


def pack(path: Path, root: Path, data_sets: list[Path]) -> list[str]:
    """Write what belongs to a hand-in into an archive, in one folder: no data sets, caches, virtual environments,
    archives, LastModel_*, nor models that complete digits. Returns their names."""
    sources = []
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        folders[:] = [name for name in folders if _belongs(here / name) and (here / name).resolve() not in data_sets]
        sources += [here / name for name in names if _belongs(here / name) and (here / name).is_file()]
    files = {source.relative_to(root).as_posix(): source for source in sorted(sources)}
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as out:
        for name, source in files.items():
            out.write(source, f"{path.stem}/{name}")
    return list(files)


def _belongs(path):
    named = any(fnmatch(path.name, pattern) for pattern in NOT_HANDED_IN)
    return not named and not any((path / marker).exists() for marker in MARKERS)


def find_hand_ins(folder: Path) -> tuple[list[Path], list[str]]:
    """(the folders, archives and links in a folder, sorted by name; the names of what is none of these). Raises
    UserError where there is no hand-in."""
    paths = sorted(folder.glob("*"))
    is_hand_in = {path: path.is_dir() or path.is_symlink() or path.name.lower().endswith(SUFFIXES) for path in paths}
    sources = [path for path in paths if is_hand_in[path] and not path.name.startswith((".", "__MACOSX"))]
    if not sources:
        raise UserError(f"{folder} is no folder, or holds no hand-in: expected a folder or a zip archive for each")
    return sources, [path.name for path in paths if path not in sources]


def collect(source: Path, wanted: Iterable[str], target: Path, depth: int = 2) -> dict[str, str]:
    """Copy the wanted files, "models/BestModel_AE.pth" and the like, from a hand-in to a folder.

    source: a folder, or a zip or tar archive. The wanted files are recognised by their own names, wherever they lie,
    and no name decides where anything is written; no link is followed. Where there are none, archives inside are
    searched; depth: how many archives are opened, one inside the other.
    Returns {wanted file: why it cannot be read}. Raises UserError where none of them can.
    """
    with _open(source) as openers:
        chosen = _choose(openers, wanted)
        if chosen:
            problems = {file: _copy(openers[name], target / file, MAX_FILE) for file, name in chosen.items()}
            if all(problems.values()):
                raise UserError("; ".join(sorted(set(problems.values()))[:3]))
            return {file: problem for file, problem in problems.items() if problem}
        depth -= not source.is_dir()
        inner = [name for name in openers if name.lower().endswith(SUFFIXES)][: MAX_INNER if depth else 0]
        reason = f"it holds {len(openers)} files, none with the name of a model, a log or a picture of this project"
        for number, name in enumerate(inner):
            copy = target / f"inner {depth} {number}"
            problem = _copy(openers[name], copy, MAX_ARCHIVE)
            try:
                if not problem:
                    return collect(copy, wanted, target, depth)
            except UserError as error:
                problem = str(error)
            finally:
                copy.unlink(missing_ok=True)
            reason = f"{printable(name)[-100:]} inside it: {problem}"
    raise UserError(reason)


@contextmanager
def _open(source):
    """{name: what opens the file} of the regular files in a folder or an archive. Raises UserError."""
    mode = source.lstat().st_mode
    if stat.S_ISDIR(mode):
        yield _list_folder(source)
        return
    if not stat.S_ISREG(mode):
        raise UserError("it is a link or a device, which is not followed: ask for a zip archive")
    with one_line("it is no archive that can be read"):
        start = _read_start(source)
        if start in NOT_SUPPORTED:
            raise UserError(f"{NOT_SUPPORTED[start]} is not supported: ask for a zip archive")
        is_zip = start.startswith(b"PK")
        with zipfile.ZipFile(source) if is_zip else tarfile.open(source) as archive:
            yield _list_zip(archive) if is_zip else _list_tar(archive)


def _list_folder(source):
    paths = [Path(folder, name) for folder, _, names in os.walk(source) for name in names]
    files = [path for path in paths if stat.S_ISREG(path.lstat().st_mode)]
    return {path.relative_to(source).as_posix(): partial(path.open, "rb") for path in files}


def _list_zip(archive):
    entries = [entry for entry in archive.infolist() if not stat.S_ISLNK(entry.external_attr >> 16)]
    return {entry.filename: partial(archive.open, entry) for entry in entries if not entry.is_dir()}


def _list_tar(archive):
    return {entry.name: partial(archive.extractfile, entry) for entry in archive if entry.isreg()}


def _read_start(source):
    """The first four bytes of an archive. Raises UserError for a zip archive of too many files, to read whose list
    would take long."""
    with open(source, "rb") as file:
        start = file.read(4)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2**16 - 22))
        _, is_zip, end = file.read().rpartition(b"PK\5\6")
    if is_zip and int.from_bytes(end[8:12], "little") > MAX_DIRECTORY:
        raise UserError("it lists more than 100,000 files: ask for an archive without data and virtual environment")
    return start


def _choose(names, wanted):
    """{wanted file: its name in the hand-in}; of several of one name, the one beside most of the others."""
    by_name = {PurePosixPath(file).name.lower(): file for file in wanted}
    groups = {}  # {the folder that holds models/, log/ and vis/: {wanted file: its name}}
    for name in names:
        *folders, last = name.replace("\\", "/").split("/")  # some programs of Windows write \
        file = by_name.get(last.lower())
        if file and folders and folders[-1].lower() in RESULTS:
            folders.pop()
        if file and "__MACOSX" not in folders:
            groups.setdefault(tuple(folders), {}).setdefault(file, name)
    chosen = {}
    for folders in sorted(groups, key=lambda folders: (len(groups[folders]), -len(folders))):
        chosen |= groups[folders]  # the fullest comes last, and wins
    return chosen


def _copy(opener, path, limit):
    """Copy a file of at most so many bytes. Returns why it cannot be read, or ""."""
    path.parent.mkdir(parents=True, exist_ok=True)
    problem = ""
    try:
        with opener() as stream, open(path, "wb") as file:
            while not problem and (chunk := stream.read(CHUNK)):
                file.write(chunk)
                problem = f"it is larger than {limit >> 20} MiB" if file.tell() > limit else ""
    except MemoryError:
        raise
    except Exception as error:  # encrypted, damaged, compressed in a way that Python does not know, ...
        reason = "it is encrypted" if "encrypted" in str(error) else str(error)[:100] or type(error).__name__
        problem = printable(f"it cannot be read: {reason}")
    if problem:
        path.unlink(missing_ok=True)
    return problem
