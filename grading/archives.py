"""Archives of hand-ins: packing one's own, and reading those of others, whose files may be hostile."""

import os
import stat
import zipfile
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from training import UserError
from training.checkpoints import atomic_write

NOT_HANDED_IN = ("flowers", "mnist", ".git", "__pycache__", "LastModel_*", "*.tmp", "*.zip", ".DS_Store")
NOT_HANDED_IN += ("replaced", "synthetic", ".ipynb_checkpoints", ".hypothesis", "BestModel_*_given?.pth")
MARKERS = ("CACHEDIR.TAG", "pyvenv.cfg", "conda-meta")  # what caches and virtual environments hold
MAX_FILE = 64 * 2**20  # bytes of a file in somebody else's hand-in
MAX_ENTRIES = 100_000  # files in it


def pack(path: Path, root: Path, data_sets: list[Path]) -> dict[str, int]:
    """Write what belongs to a hand-in into an archive, in one folder: no data sets, caches, virtual environments,
    archives, LastModel_*, nor the models of main.py --given. Returns {file: bytes}."""
    files = {source.relative_to(root).as_posix(): source for source in _list_files(root, data_sets)}
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as out:
        for name, source in files.items():
            out.write(source, f"{path.stem}/{name}")
    return {name: source.stat().st_size for name, source in files.items()}


def _list_files(root, data_sets):
    files = []
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        folders[:] = [name for name in folders if _belongs(here / name) and (here / name).resolve() not in data_sets]
        files += [here / name for name in names if _belongs(here / name) and (here / name).is_file()]
    return sorted(files)


def _belongs(path):
    named = any(fnmatch(path.name, pattern) for pattern in NOT_HANDED_IN)
    return not named and not any((path / marker).exists() for marker in MARKERS)


def collect(source: Path, wanted: Iterable[str], target: Path) -> None:
    """Copy the wanted files, "models/BestModel_AE.pth" and the like, from a hand-in to a folder.

    source: a folder or a zip archive, in which models/, vis/ and log/ may lie at any depth, all beside each other.
    Nothing else is read or written, whatever the names in it say; no link is followed. Raises UserError where it is
    neither, holds none of them, or one is larger than MAX_FILE, whatever size it claims.
    """
    for file, data in _read_all(source, set(wanted)):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        (target / file).write_bytes(data)


def _read_all(source, wanted):
    """Yield (wanted file, its bytes)."""
    try:
        if source.is_dir() and not source.is_symlink():
            yield from _read_wanted(_walk(source), wanted, lambda name: (source / name).open("rb"))
        else:
            with zipfile.ZipFile(source) as archive:
                entries = {entry.filename: entry for entry in archive.infolist() if _is_plain(entry)}
                yield from _read_wanted(entries, wanted, lambda name: archive.open(entries[name]))
    except UserError:
        raise
    except Exception as error:  # a damaged archive can make zipfile raise almost anything
        raise UserError(f"neither a folder nor a zip archive that can be read ({type(error).__name__})") from None


def _walk(source):
    for folder, _, names in os.walk(source):
        for name in names:
            path = Path(folder, name)
            if stat.S_ISREG(path.lstat().st_mode):
                yield path.relative_to(source).as_posix()


def _is_plain(entry):
    """No link, and of the one compression of which zipfile unpacks no more than it is asked for."""
    return not stat.S_ISLNK(entry.external_attr >> 16) and entry.compress_type in (
        zipfile.ZIP_STORED,
        zipfile.ZIP_DEFLATED,
    )


def _read_wanted(names, wanted, opened):
    found = {}  # {folder that holds models/, vis/ and log/: {wanted file: its name}}
    for count, name in enumerate(names):
        if count > MAX_ENTRIES:
            raise UserError(f"it holds more than {MAX_ENTRIES} files")
        parts = PurePosixPath(name.replace("\\", "/")).parts  # some programs of Windows write \
        if "/".join(parts[-2:]) in wanted:
            found.setdefault(parts[:-2], {})["/".join(parts[-2:])] = name
    if not found:
        raise UserError("it holds no models/, vis/ and log/ of this project")
    for file, name in found[min(found, key=lambda folder: (-len(found[folder]), len(folder), folder))].items():
        with opened(name) as stream:
            data = stream.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise UserError(f"its {file} is larger than {MAX_FILE >> 20} MiB")
        yield file, data
