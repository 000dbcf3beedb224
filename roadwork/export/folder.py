"""The exported folder, written as a whole: it has its name when it is complete, and until then the old one keeps it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from roadwork.errors import DataError
from roadwork.export.facts import CONFIG_FILE, ExportFacts
from roadwork.export.replay import REPLAY_FOLDER
from roadwork.inference.networks import ONNX_FILE, WEIGHTS_FILE
from roadwork.models.processor import PROCESSOR_FILE

CARD_FILE, NATIX_CARD_FILE = "README.md", "model_card.json"
WRITTEN = {CONFIG_FILE, PROCESSOR_FILE, WEIGHTS_FILE, ONNX_FILE, CARD_FILE, NATIX_CARD_FILE, REPLAY_FOLDER}


def check_target(out: Path) -> None:
    """Looks whether an export may take this name.

    Raises:
        DataError: something is there that `roadwork export` has not written, and that would be lost.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise DataError(f"{out} is a file; an export is a folder. Name another with --out.")
    try:
        ExportFacts.read(out)
    except DataError:
        raise DataError(
            f"{out} exists, and `roadwork export` has not written it, so it is not replaced. Name a new folder."
        ) from None
    foreign = sorted(path.name for path in out.iterdir() if path.name not in WRITTEN)
    if foreign:
        raise DataError(
            f"{out} is an export, but also holds {', '.join(foreign[:5])}{', ...' if len(foreign) > 5 else ''}, which "
            "would be lost if it were replaced. Name a new folder and copy its files over, or move these away."
        )


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out`, to be filled; synced and renamed to `out` when the block is done, removed if it fails.

    Raises:
        DataError: as `check_target`, which is asked again once the block is done.
    """
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as beside:
        folder, replaced = Path(beside) / "new", Path(beside) / "replaced"
        folder.mkdir()
        yield folder
        _sync(folder)
        check_target(out)
        if out.exists():
            out.rename(replaced)
        try:
            folder.rename(out)
        except OSError:
            if replaced.exists():
                replaced.rename(out)
            raise
        _sync_one(out.parent)


def file_sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file by its path in the folder; those of `replay/` are one sum."""
    sizes: dict[str, int] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        shown = f"{REPLAY_FOLDER}/" if name.parts[0] == REPLAY_FOLDER else str(name)
        sizes[shown] = sizes.get(shown, 0) + path.stat().st_size
    return sizes


def _sync(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
