"""Archives of hand-ins: packing one's own, and reading those of others, whose files may be hostile."""

import os
import stat
import zipfile
from collections.abc import Iterable
from contextlib import nullcontext
from fnmatch import fnmatch
from functools import partial
from pathlib import Path, PurePosixPath

from common import UserError
from common.checkpoints import atomic_write

NOT_HANDED_IN = ("flowers", "mnist", ".git", "__pycache__", "LastModel_*", "*.tmp", "*.zip", ".DS_Store")
NOT_HANDED_IN += ("replaced", "synthetic", ".ipynb_checkpoints", ".hypothesis", "BestModel_*_given?.pth")
MARKERS = ("CACHEDIR.TAG", "pyvenv.cfg", "conda-meta")  # what caches and virtual environments hold
MAX_FILE = 64 * 2**20  # bytes of a file in somebody else's hand-in
MAX_ENTRIES = 100_000  # files in it


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


def collect(source: Path, wanted: Iterable[str], target: Path) -> None:
    """Copy the wanted files, "models/BestModel_AE.pth" and the like, from a hand-in to a folder.

    source: a folder or a zip archive, in which models/, vis/ and log/ may lie at any depth, all beside each other.
    Nothing else is read or written, whatever the names in it say; no link is followed. Raises UserError where it is
    neither, holds none of them, or one is larger than MAX_FILE, whatever size it claims.
    """
    is_folder = source.is_dir() and not source.is_symlink()
    try:
        with nullcontext() if is_folder else zipfile.ZipFile(source) as archive:
            openers = _list_folder(source) if is_folder else _list_archive(archive)
            for file, name in _choose(openers, set(wanted)).items():
                with openers[name]() as stream:
                    data = stream.read(MAX_FILE + 1)
                if len(data) > MAX_FILE:
                    raise UserError(f"its {file} is larger than {MAX_FILE >> 20} MiB")
                (target / file).parent.mkdir(parents=True, exist_ok=True)
                (target / file).write_bytes(data)
    except UserError:
        raise
    except Exception as error:  # a damaged archive can make zipfile raise almost anything
        raise UserError(f"neither a folder nor a zip archive that can be read ({type(error).__name__})") from None


def _list_folder(source):
    """{name: what opens the file}, without links."""
    paths = [Path(folder, name) for folder, _, names in os.walk(source) for name in names]
    files = [path for path in paths if stat.S_ISREG(path.lstat().st_mode)]
    return {path.relative_to(source).as_posix(): partial(path.open, "rb") for path in files}


def _list_archive(archive):
    """{name: what opens the file}, without links, and of the compressions of which zipfile unpacks no more than it is
    asked for."""
    openers = {}
    for entry in archive.infolist():
        is_link = stat.S_ISLNK(entry.external_attr >> 16)
        if not is_link and entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            openers[entry.filename] = partial(archive.open, entry)
    return openers


def _choose(names, wanted):
    """{wanted file: its name}, of the folder that holds most of them. Raises UserError where none does."""
    if len(names) > MAX_ENTRIES:
        raise UserError(f"it holds more than {MAX_ENTRIES} files")
    folders = {}  # {what stands before models/, vis/ and log/: {wanted file: its name}}
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/")).parts  # some programs of Windows write \
        file = "/".join(parts[-2:])
        if file in wanted:
            folders.setdefault(parts[:-2], {})[file] = name
    if not folders:
        raise UserError("it holds no models/, vis/ and log/ of this project")
    return max(folders.items(), key=lambda item: (len(item[1]), -len(item[0])))[1]
