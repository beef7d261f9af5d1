"""Removes a prepared data set: the files that the harness wrote for it, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from harness.api import DatasetSpec, Source
from harness.catalog import Offer
from harness.data.ingest import no_words
from harness.data.sources import download_folder
from harness.data.store import locked, own_folders, remove_files, remove_folder, remove_if_empty, require_idle
from harness.files import writing_to
from harness.machine import disk_use


def remove(
    offer: Offer[DatasetSpec],
    root: Path,
    others: Iterable[Offer[DatasetSpec]],
    say: Callable[[str], object] = no_words,
) -> int:
    """Remove what the harness wrote for a data set: arrays, unpacked files, and downloads that no other set uses.

    Files of anybody else stay, wherever they are; see ``left_behind``.

    Args:
        offer: The data set.
        root: The data folder.
        others: All data sets. A download stays if another prepared set uses it.
        say: Called with sentences for the user.

    Returns:
        The number of bytes freed.

    Raises:
        DatasetError: another process prepares the set.
        StoreError: a folder can't be written.
    """
    spec = offer.spec
    kept = {
        download_folder(root, source)
        for other in others
        if other.spec.name != spec.name and any((root / other.spec.name).glob("*/manifest.json"))
        for source in other.spec.sources
    }
    downloads = [source for source in spec.sources if download_folder(root, source) not in kept]
    if not own_folders(root, spec.name) and not any(_download_files(root, source) for source in downloads):
        return 0
    freed = 0
    with locked(root, spec.name, wait=False, say=say) as sole, writing_to(root):
        require_idle(root, spec.name, sole=sole)
        going = [*own_folders(root, spec.name), *(download_folder(root, source) for source in downloads)]
        there = [folder.relative_to(root).as_posix() for folder in going if folder.exists()]
        say(f"{spec.name}: removing what the harness wrote in {root}: {', '.join(there)}.")
        for source in downloads:
            files = _download_files(root, source)
            freed += sum(file.lstat().st_size for file in files)
            remove_files(files, download_folder(root, source))
        for folder in own_folders(root, spec.name):
            if folder.is_symlink():
                say(f"{spec.name}: {folder} was a link; the arrays in {folder.resolve()} stay until you remove them.")
            before = 0 if folder.is_symlink() else disk_use(folder)
            remove_folder(folder, spec.name)
            freed += before - (disk_use(folder) if folder.exists() else 0)
    with writing_to(root):
        remove_files([root / spec.name / ".lock"], root / spec.name)
    remove_if_empty(root / "downloads")
    return freed


def left_behind(offer: Offer[DatasetSpec], root: Path) -> list[str]:
    """Return the names in a data set's folder that ``remove`` leaves, since the harness did not write them."""
    base = root / offer.spec.name
    if not base.is_dir():
        return []
    ours = {".lock", *(folder.name for folder in own_folders(root, offer.spec.name))}
    with writing_to(base):
        return sorted({one.name for one in base.iterdir()} - ours)


def _download_files(root: Path, source: Source) -> list[Path]:
    """Return the files of a source's download, finished or not."""
    folder = download_folder(root, source)
    names = [f"{source.filename}{end}" for end in ("", ".part", ".part.etag", ".refused")]
    return [folder / name for name in (*names, ".lock") if (folder / name).is_file()]
