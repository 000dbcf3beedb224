"""The photo formats: suffixes, signatures and names, and the count of files that have another suffix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePath
from threading import Lock

from PIL import ImageFile

try:
    from pillow_heif import HeifImagePlugin  # noqa: F401 -- registers the format HEIF with Pillow
except ImportError:  # the extra `heic` is not installed
    HAS_HEIF = False
else:
    HAS_HEIF = True
HEIF_INSTALL = "pip install 'roadwork-vision[heic]'"

# An MPO, which phones write, is a JPEG with further pictures behind it; the first is read. HEIC is the HEIF of phones.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    *(".png", ".webp"),
    *(".heic", ".heif", ".hif", ".avif"),
    *(".tif", ".tiff"),
)
FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "AVIF", "TIFF")  # as Pillow names them
FORMAT_NAMES = "JPEG, PNG, WebP, HEIC, AVIF or TIFF"
MEDIA_TYPES = tuple(f"image/{name}" for name in ("jpeg", "jpg", "png", "webp", "heic", "heif", "avif", "tiff"))

N_SIGNATURE_BYTES = 64
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_AVIF_BRANDS = {b"avif", b"avis"}
_BOXES = (b"ftyp", b"meta", b"mdat", b"moov")


def format_of(first: bytes) -> str:
    """Pillow's name of the format whose signature a file begins with; empty if it is none of `FORMATS`.

    Args:
        first: at least 12 bytes. With `N_SIGNATURE_BYTES`, AVIF files that name another brand first are recognised.
    """
    if first.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if first.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if first.startswith(b"RIFF") and first[8:12] == b"WEBP":
        return "WEBP"
    if first.startswith(_TIFF):
        return "TIFF"
    if first[4:8] == b"ftyp":
        brands = {first[8:12], *_compatible_brands(first)}
        return "AVIF" if brands & _AVIF_BRANDS else "HEIF" if brands & _HEIF_BRANDS else ""
    return ""


def _compatible_brands(first: bytes) -> Iterator[bytes]:
    for start in range(16, min(int.from_bytes(first[:4], "big"), len(first)), 4):
        yield first[start : start + 4]


class TruncatedError(Exception):
    """The end of a file is missing."""


def has_whole_boxes(data: bytes) -> bool:
    """Whether the boxes of a HEIC or AVIF file end where the file ends.

    Raises:
        TruncatedError: a box is cut off. libheif would decode the file all the same, with grey instead of what is gone.
    """
    position = 0
    while format_of(data[:N_SIGNATURE_BYTES]) in ("HEIF", "AVIF") and position + 8 <= len(data):
        kind = data[position + 4 : position + 8]
        n_bytes = int.from_bytes(data[position : position + 4], "big")
        if n_bytes == 1:  # a larger size follows the kind
            n_bytes = int.from_bytes(data[position + 8 : position + 16], "big")
        if n_bytes < 8:  # 0 means up to the end of the file; others are data behind the last box
            return False
        position += n_bytes
        if position > len(data) and kind in _BOXES:
            raise TruncatedError(f"image file is truncated ({position - len(data):,} bytes are missing)")
    return 0 < position == len(data)


def is_photo_name(name: str) -> bool:
    """Whether a file name has the suffix of a photo format."""
    return name.lower().endswith(SUFFIXES)


class _CompleteImagesOnly:
    """Context in which truncated images are errors, whatever another library has set Pillow's process-wide flag to.

    Threads share it; the last one to leave restores the flag.
    """

    def __init__(self) -> None:
        self._lock, self._n_inside, self._was_set = Lock(), 0, False

    def __enter__(self) -> None:
        with self._lock:
            if ImageFile.LOAD_TRUNCATED_IMAGES:
                self._was_set, ImageFile.LOAD_TRUNCATED_IMAGES = True, False
            self._n_inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._n_inside -= 1
            if self._was_set and not self._n_inside:
                self._was_set, ImageFile.LOAD_TRUNCATED_IMAGES = False, True


complete_images_only = _CompleteImagesOnly()


class LeftOut:
    """Counts the files that are not read, by suffix or as hidden, with an example of each."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, path: str) -> None:
        """Counts a file."""
        name = PurePath(path)
        kind = "hidden" if name.name.startswith(".") else name.suffix.lower() or "without a suffix"
        self._counts[kind] += 1
        self._examples.setdefault(kind, path)

    def __len__(self) -> int:
        return self._counts.total()

    def __str__(self) -> str:
        """The counts and examples, such as `2 .txt (notes.txt), 1 .mp4 (clip.mp4)`."""
        return ", ".join(f"{n:,} {kind} ({self._examples[kind]})" for kind, n in self._counts.most_common())
