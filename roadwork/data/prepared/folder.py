"""Where a resized copy lies, and its manifest: what it was made from, and how."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

from roadwork.data.images import READER_VERSION
from roadwork.data.prepared.resize import QUALITY
from roadwork.data.prepared.shards import SUFFIX
from roadwork.data.source import dataset_key
from roadwork.runs import cache_folder, write_json
from roadwork.settings import DataSettings

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
# Room for the resize to `img_size` to interpolate: at exactly `img_size` it would be that of the copy alone.
ROOM = 1.15


@dataclass(frozen=True)
class Manifest:
    """What a copy is of, and how it was made.

    Attributes:
        dataset: `dataset_key` of its photos.
        short_side: pixels of its pictures' shorter side.
        reader: `READER_VERSION` of the code that made it.
        format: `FORMAT_VERSION` likewise.
        quality: of its JPEGs.
        rows: pictures it held when it was last finished.
        n_bytes: of their files.
        unreadable: rows whose photos could not be read: id to the photo's identity.
    """

    dataset: str
    short_side: int
    reader: int = READER_VERSION
    format: int = FORMAT_VERSION
    quality: int = QUALITY
    rows: int = 0
    n_bytes: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Writes it into the copy's folder, atomically."""
        write_json(folder / MANIFEST, asdict(self))

    @property
    def is_current(self) -> bool:
        """Whether this version of the code would make the same pictures."""
        made_by = (self.reader, self.format, self.quality)
        return made_by == (READER_VERSION, FORMAT_VERSION, QUALITY)


def read_manifest(folder: Path) -> Manifest | None:
    """A copy's manifest; None where the folder has none that can be read."""
    try:
        return Manifest(**json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def wanted_short_side(data: DataSettings) -> int:
    """Pixels of the copy's shorter side: `data.prepared.short_side`, else 1.15 x `data.img_size`, rounded up."""
    return data.prepared.short_side or math.ceil(round(ROOM * data.img_size, 6))


def wanted_folder(data: DataSettings) -> Path:
    """Where `roadwork prepare` writes."""
    if data.prepared.folder:
        return Path(data.prepared.folder)
    return _cached_copies() / f"{dataset_key(data)}-{wanted_short_side(data)}-r{READER_VERSION}"


def candidate_folders(data: DataSettings) -> list[Path]:
    """The folders that may hold a copy of the dataset, the one that `roadwork prepare` writes first."""
    wanted = wanted_folder(data)
    if data.prepared.folder:
        return [wanted]
    return [wanted, *(path for path in sorted(_cached_copies().glob(f"{dataset_key(data)}-*")) if path != wanted)]


def shard_paths(folder: Path) -> list[Path]:
    """The shards of a copy."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if not path.name.startswith("."))


def _cached_copies() -> Path:
    return cache_folder() / "prepared"
