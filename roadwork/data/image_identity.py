"""By what a row's image is known again, without reading all of it."""

from __future__ import annotations

from roadwork.data.images import FileImages, ImageSource, UnreadableImageError
from roadwork.data.stacked_images import StackedImages

UNREADABLE = "unreadable"


def identify_image(source: ImageSource, row: int) -> str:
    """Text that changes when the image does: a file's size and time of change, else its length and both its ends."""
    if isinstance(source, StackedImages):
        return identify_image(*source.find(row))
    try:
        if isinstance(source, FileImages):
            status = source.paths[row].stat()
            return f"{status.st_size}:{status.st_mtime_ns}"
        first, last, n_bytes = source.read_ends(row)
    except (OSError, UnreadableImageError):
        return UNREADABLE
    return f"{n_bytes}:{first.hex()}:{last.hex()}"
