"""`roadwork frames`: videos with a known picture at each time, and tracks with a known position."""

import zipfile
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from zoneinfo import ZoneInfo

import av
import numpy as np
import pandas as pd
import pytest
from geographiclib.geodesic import Geodesic
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

import roadwork.cli.data  # noqa: F401 -- registers the command
from roadwork.cli.app import app
from roadwork.core.errors import DataError
from roadwork.data.frames import FrameOptions, write_frames
from roadwork.data.utils.exif import read_camera_metadata
from roadwork.data.utils.tracks import Track

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
SPHERE = Geodesic(6371008.8, 0)


def make_video(path: Path, times, size=(64, 48), created=NOON):
    """A video whose left half is red, and whose right half is as blue as the time in seconds times 20."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        if created:
            container.metadata["creation_time"] = created.isoformat()
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height = size
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for time in times:
            pixels = np.zeros((size[1], size[0], 3), np.uint8)
            pixels[:, : size[0] // 2, 0], pixels[:, size[0] // 2 :, 2] = 200, round(20 * time)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def make_gpx(path: Path, points, zone="Z"):
    rows = "".join(
        f'<trkpt lat="{lat}" lon="{lon}"><time>{(NOON + timedelta(seconds=s)):%Y-%m-%dT%H:%M:%S}{zone}</time></trkpt>'
        for s, lat, lon in points
    )
    head = '<gpx version="1.1" creator="t" xmlns="http://www.topografix.com/GPX/1/1">'
    path.write_text(f"{head}<trk><trkseg>{rows}</trkseg></trk></gpx>")
    return path


def test_frames_have_time_and_position(tmp_path):
    video = make_video(tmp_path / "drive.mp4", np.arange(0, 4, 0.1))
    track = Track.read(make_gpx(tmp_path / "t.gpx", [(0, -33.0, 151.0), (2, -33.002, 151.0)]))
    table = write_frames([video], tmp_path / "out", FrameOptions(track=track))
    assert pd.read_csv(tmp_path / "out" / "frames.csv")["seconds"].tolist() == [0, 1, 2, 3]
    assert table["sequence_id"].unique().tolist() == ["drive"]
    assert table["latitude"].tolist() == pytest.approx([-33.0, -33.001, -33.002, np.nan], nan_ok=True, abs=1e-7)
    found = read_camera_metadata((tmp_path / "out" / table["filename"][1]).read_bytes())
    assert found[:2] == pytest.approx((-33.001, 151.0), abs=1e-7)
    assert found.captured_at == "2024-05-01T12:00:01+00:00"
    blue = np.asarray(Image.open(tmp_path / "out" / table["filename"][3]))[:, 40:, 2].mean()
    assert blue == pytest.approx(60, abs=12)


def test_variable_frame_rate_follows_the_clock(tmp_path):
    times = [0, 0.1, 0.2, 0.3, 2.5, 2.6, 5.0]
    table = write_frames([make_video(tmp_path / "d.mkv", times)], tmp_path / "out", FrameOptions())
    assert table["seconds"].tolist() == pytest.approx([0, 2.5, 5.0], abs=2e-3)


def test_frames_every_ten_metres(tmp_path):
    video = make_video(tmp_path / "d.mp4", np.arange(0, 4, 0.1))
    points = [(0, 0.0, 0.0), (1, 0.0, 0.0), (3, 0.0, 40 / 111194.93)]  # stands for a second, then 20 m a second
    track = Track.read(make_gpx(tmp_path / "t.gpx", points))
    table = write_frames([video], tmp_path / "out", FrameOptions(seconds=None, metres=10.0, track=track))
    assert table["seconds"].tolist() == pytest.approx([0, 1.5, 2.0, 2.5, 3.0], abs=0.11)


def test_rotated_video_is_upright(tmp_path):
    video = make_video(tmp_path / "d.mp4", [0, 0.1, 0.2])
    data, one = video.read_bytes(), (1 << 16).to_bytes(4, "big")
    identity = one + bytes(12) + one + bytes(12) + (1 << 30).to_bytes(4, "big")
    clockwise = bytes(4) + one + bytes(4) + (-(1 << 16)).to_bytes(4, "big", signed=True) + bytes(16) + identity[-4:]
    at = data.index(identity, data.index(b"tkhd"))
    video.write_bytes(data[:at] + clockwise + data[at + 36 :])
    table = write_frames([video], tmp_path / "out", FrameOptions())
    image = np.asarray(Image.open(tmp_path / "out" / table["filename"][0]))
    assert image.shape == (64, 48, 3)
    assert image[:28, :, 0].mean() > 150  # the left half is on top
    assert image[36:, :, 0].mean() < 50


def broken_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "no video")


def broken_end(path):
    data = make_video(path, np.arange(0, 12, 0.1)).read_bytes()
    path.write_bytes(data[: len(data) // 2])


def without_frames(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("breaks", [broken_zip, broken_end, without_frames])
def test_hostile_video_is_one_error(tmp_path, breaks):
    breaks(tmp_path / "drive.mp4")
    found = CliRunner().invoke(app, ["frames", str(tmp_path / "drive.mp4"), "--out", str(tmp_path / "out")])
    assert isinstance(found.exception, DataError)
    assert "drive.mp4" in str(found.exception)
    assert not (tmp_path / "out" / "frames.csv").exists()


def test_absurd_size_is_refused_before_decoding(tmp_path, monkeypatch):
    monkeypatch.setattr("roadwork.data.frames.MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(DataError, match="64x48"):
        write_frames([make_video(tmp_path / "d.mp4", [0])], tmp_path / "out", FrameOptions())


def test_local_clock_and_offset(tmp_path):
    video = make_video(tmp_path / "d.mp4", [0, 0.1])
    options = FrameOptions(zone=ZoneInfo("America/New_York"), offset=-30)
    assert write_frames([video], tmp_path / "a", options)["captured_at"].tolist() == ["2024-05-01T15:59:30.000+00:00"]
    silent = make_video(tmp_path / "e.mp4", [0, 0.1], created=None)
    assert write_frames([silent], tmp_path / "b", FrameOptions())["captured_at"].tolist() == [""]


def test_gaps_have_no_position():
    track = Track.of(np.array([0, 5, 60, 65]), np.array([[0, 0], [0, 1], [0, 2], [0, 3]]))
    found = track.at(np.array([-1, 2.5, 5, 30, 60, 66]), max_gap=10)[:, 1]
    assert found.tolist() == pytest.approx([np.nan, 0.5, 1, np.nan, 2, np.nan], nan_ok=True)


OFFSETS = st.floats(-1e6, 1e6)


@given(st.floats(-89, 89), st.floats(-180, 180), st.floats(0, 360), st.floats(1, 2e6), st.floats(0, 1), OFFSETS)
def test_interpolation_follows_the_great_circle(latitude, longitude, azimuth, metres, share, offset):
    end = SPHERE.Direct(latitude, longitude, azimuth, metres)
    expected = SPHERE.Direct(latitude, longitude, azimuth, metres * share)
    track = Track.of(np.array([offset, offset + 1000]), np.array([[latitude, longitude], [end["lat2"], end["lon2"]]]))
    ((lat, lon),) = track.at(np.array([offset + 1000 * share]), max_gap=2000)
    assert SPHERE.Inverse(lat, lon, expected["lat2"], expected["lon2"])["s12"] < 0.01
    assert -180 <= lon <= 180
