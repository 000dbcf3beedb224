"""Frames of videos as photos with time and position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from roadwork.core.errors import DataError, MissingExtraError
from roadwork.core.files import atomic_path
from roadwork.core.progress import new_progress
from roadwork.data.utils.tracks import VIDEO_INSTALL, Track

FRAMES_FILE = "frames.csv"
MAX_PIXELS = 8192 * 8192
QUALITY = 95
_ENDS_EARLY_S = 1.0  # a video that ends this much before its claimed end is truncated


@dataclass(frozen=True)
class FrameOptions:
    """Which frames to take, and where they are.

    Attributes:
        seconds: between two frames; None if `metres` is given.
        metres: along the track between two frames.
        track: positions over time.
        offset: seconds to add to the video's clock.
        zone: of the video's clock. The formats ask for UTC, but many cameras write local time.
        start: when the first frame was taken; None: the video's creation time.
        max_gap: seconds between two points of the track, beyond which frames between them have no position.
    """

    seconds: float | None = 1.0
    metres: float | None = None
    track: Track | None = None
    offset: float = 0.0
    zone: tzinfo = UTC
    start: datetime | None = None
    max_gap: float = 10.0


@dataclass(frozen=True)
class Frame:
    """A decoded frame.

    Attributes:
        seconds: since the start of the video, by its presentation time.
        image: upright.
    """

    seconds: float
    image: Image.Image


def write_frames(videos: Sequence[Path], folder: Path, options: FrameOptions) -> pd.DataFrame:
    """Writes frames as JPEG files with time and position in EXIF, and then `frames.csv`.

    Args:
        videos: one drive each; the drive's `sequence_id` is the file's name without its suffix.
        folder: must be missing or empty.
        options: which frames to take.

    Returns:
        The table of `frames.csv`: filename, sequence_id, seconds, captured_at, latitude, longitude.

    Raises:
        DataError: a video cannot be read, two have one name, or the folder is not empty.
        MissingExtraError: PyAV is not installed.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty. Remove it, or give --out another folder.")
    names = [video.stem for video in videos]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"Several videos have the name {name}. A drive needs a name of its own: rename them.")
    parts = [_write_drive(video, folder, options) for video in videos]
    table = pd.concat(parts, ignore_index=True)
    with atomic_path(folder / FRAMES_FILE) as temporary:
        table.to_csv(temporary, index=False)
    return table


def _write_drive(video: Path, folder: Path, options: FrameOptions) -> pd.DataFrame:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    start = start_time(video, options)
    rows = []
    for number, frame in enumerate(read_frames(video, options, start)):
        at = None if start is None else start + timedelta(seconds=frame.seconds)
        position = np.full(2, np.nan)
        if options.track is not None and at is not None:
            position = options.track.at(np.array([at.timestamp()]), options.max_gap)[0]
        name = f"images/{video.stem}_{number:06d}.jpg"
        frame.image.save(folder / name, quality=QUALITY, exif=_exif(at, position))
        rows.append(
            {
                "filename": name, "sequence_id": video.stem, "seconds": round(frame.seconds, 3),
                "captured_at": "" if at is None else at.isoformat(timespec="milliseconds"),
                "latitude": round(position[0], 7), "longitude": round(position[1], 7),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def read_frames(video: Path, options: FrameOptions, start: datetime | None) -> Iterator[Frame]:
    """The frames of a video that `options` asks for, one in memory at a time.

    Raises:
        DataError: it is no video, has no frames or too large ones, or is truncated.
    """
    due, seconds = 0.0, None
    with _open(video) as container, new_progress() as progress:
        stream = _video_stream(container, video)
        length = float(container.duration or 0) / 1_000_000  # ffmpeg counts microseconds
        task = progress.add_task(f"Reading {video.name}", total=length or None)
        for decoded in container.decode(stream):
            if decoded.pts is None:
                continue
            seconds = float((decoded.pts - (stream.start_time or 0)) * stream.time_base)
            progress.update(task, completed=seconds)
            reached, step = _reached(seconds, options, start)
            if reached >= due:
                due = (reached // step + 1) * step
                yield Frame(seconds, decoded.to_image().rotate(decoded.rotation, expand=True))
        frame_seconds = 1 / float(stream.average_rate or 1)
    if seconds is None:
        raise DataError(f"{video} has no frame. Allowed: a video with at least one.")
    if length - seconds > _ENDS_EARLY_S + frame_seconds:
        raise DataError(
            f"{video} is truncated: it ends at {seconds:.1f} of {length:.1f} s. "
            "Copy it again, or repair it with ffmpeg."
        )


def _reached(seconds: float, options: FrameOptions, start: datetime | None) -> tuple[float, float]:
    """How far the video is, and the step between frames, both in seconds or in metres."""
    if options.metres is None:
        return seconds, options.seconds or 1.0
    if options.track is None or start is None:
        raise DataError("--every in metres needs --track, and a video with a creation time or --start.")
    return float(options.track.metres_at(np.array([start.timestamp() + seconds]))[0]), options.metres


def start_time(video: Path, options: FrameOptions) -> datetime | None:
    """When the first frame was taken, in UTC; None if the video has no creation time.

    Raises:
        DataError: it is no video.
    """
    moment = options.start
    if moment is None:
        with _open(video) as container:
            text = container.metadata.get("creation_time", "")
        try:
            moment = datetime.fromisoformat(text).replace(tzinfo=None)  # the Z it ends with is often wrong
        except ValueError:
            return None
        if moment.year < 1971:  # what a camera without a clock writes
            return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=options.zone)
    return moment.astimezone(UTC) + timedelta(seconds=options.offset)


def _video_stream(container: Any, video: Path) -> Any:
    if not container.streams.video:
        raise DataError(f"{video} has no video stream. Allowed: a mp4, mov or mkv file with pictures.")
    stream = container.streams.video[0]
    if stream.width * stream.height > MAX_PIXELS:
        raise DataError(
            f"{video} claims {stream.width}x{stream.height} pixels. Allowed: at most {MAX_PIXELS:,} in all."
        )
    stream.thread_type = "AUTO"
    return stream


def _exif(at: datetime | None, position: np.ndarray) -> Image.Exif:
    exif = Image.Exif()
    if at is not None:
        tags = exif.get_ifd(ExifTags.IFD.Exif)
        tags[ExifTags.Base.DateTimeOriginal] = f"{at:%Y:%m:%d %H:%M:%S}"
        tags[ExifTags.Base.OffsetTimeOriginal] = "+00:00"
    if np.isfinite(position).all():
        gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
        for degrees, letters, tag, letter_tag in (
            (position[0], "NS", ExifTags.GPS.GPSLatitude, ExifTags.GPS.GPSLatitudeRef),
            (position[1], "EW", ExifTags.GPS.GPSLongitude, ExifTags.GPS.GPSLongitudeRef),
        ):
            size = round(abs(degrees) * 36_000_000)  # ten-thousandths of a second, 3 mm
            gps[letter_tag] = letters[int(degrees < 0)]
            gps[tag] = (
                IFDRational(size // 36_000_000), IFDRational(size // 600_000 % 60), IFDRational(size % 600_000, 10_000)
            )  # fmt: skip
    return exif


@contextmanager
def _open(video: Path) -> Iterator[Any]:
    """An open container of PyAV; its errors while decoding are errors of the file too."""
    try:
        import av  # noqa: PLC0415 -- an extra
    except ImportError:
        raise MissingExtraError(f"Reading a video needs the package av: {VIDEO_INSTALL}") from None
    try:
        with av.open(str(video)) as container:
            yield container
    except av.error.FFmpegError as error:
        raise DataError(
            f"{video} cannot be read as a video ({error.strerror}). Allowed: a complete mp4, mov or mkv file."
        ) from None
