import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFile
from PIL.TiffImagePlugin import IFDRational

from roadwork.data.utils.exif import read_camera_metadata, read_exif_gps, read_exif_gps_table

GPS = ExifTags.GPS


def photo(path, tags, fmt="JPEG"):
    exif = Image.Exif()
    if tags is not None:
        exif.get_ifd(ExifTags.IFD.GPSInfo).update(tags)
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2024:05:01 10:20:30"
    Image.new("RGB", (16, 16), "gray").save(path, fmt, exif=exif if fmt == "TIFF" else exif.tobytes())
    return path


def gps_tags(latitude=(52.0, 31.0, 12.0), latitude_ref="N", longitude=(13.0, 24.0, 0.0), longitude_ref="E"):
    return {
        GPS.GPSLatitude: latitude,
        GPS.GPSLatitudeRef: latitude_ref,
        GPS.GPSLongitude: longitude,
        GPS.GPSLongitudeRef: longitude_ref,
    }


@pytest.mark.parametrize(
    ("latitude_ref", "longitude_ref", "expected"),
    [("N", "E", (52.52, 13.4)), ("S", "E", (-52.52, 13.4)), ("N", "W", (52.52, -13.4)), ("s", "w", (-52.52, -13.4))],
)
def test_hemispheres(tmp_path, latitude_ref, longitude_ref, expected):
    path = photo(tmp_path / "a.jpg", gps_tags(latitude_ref=latitude_ref, longitude_ref=longitude_ref))
    assert read_exif_gps(path) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "HEIF", "AVIF", "TIFF"])
def test_position_and_time_in_every_format(tmp_path, fmt):
    path = photo(tmp_path / "photo", gps_tags(latitude_ref="S"), fmt)
    found = read_camera_metadata(path.read_bytes())
    assert found[:2] == pytest.approx((-52.52, 13.4), abs=1e-6)
    assert read_exif_gps(path) == found[:2]
    assert found.captured_at == "2024-05-01T10:20:30"


@pytest.mark.parametrize(
    "tags",
    [
        None,
        {},
        {GPS.GPSLatitude: (52.0, 31.0, 12.0), GPS.GPSLatitudeRef: "N"},
        gps_tags(latitude=(IFDRational(52, 0), 31.0, 12.0)),
        gps_tags(longitude=(IFDRational(0, 0),) * 3),
        gps_tags(latitude=(52.0, 31.0)),
        gps_tags(latitude=(95.0, 0.0, 0.0)),
        gps_tags(latitude_ref="X"),
        gps_tags(latitude_ref=""),
    ],
)
def test_absent_or_malformed_is_missing(tmp_path, tags):
    assert np.isnan(read_exif_gps(photo(tmp_path / "a.jpg", tags))).all()


def test_damaged_or_missing_exif_gives_nan_without_a_warning(tmp_path):
    path = photo(tmp_path / "a.jpg", gps_tags())
    whole = path.read_bytes()
    at = whole.index(b"Exif\0\0")
    for cut in range(6, 200, 7):
        path.write_bytes(whole[: at + cut] + b"\xff" * (200 - cut) + whole[at + 200 :])
        read_exif_gps(path)
    path.write_text("no image")
    assert np.isnan(read_exif_gps(path)).all()
    assert np.isnan(read_exif_gps(tmp_path / "absent.jpg")).all()


def test_table_keeps_the_order_and_decodes_no_pixel(tmp_path, monkeypatch):
    def refuse(self):
        raise AssertionError("a pixel was decoded")

    paths = [
        photo(tmp_path / f"{i}.jpg", gps_tags(latitude=(float(i), 0.0, 0.0)) if i % 3 else None) for i in range(40)
    ]
    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    table = read_exif_gps_table(paths)
    expected = [[float(i), 13.4] if i % 3 else [np.nan, np.nan] for i in range(40)]
    np.testing.assert_allclose(table, expected, atol=1e-9)
    assert read_exif_gps_table([]).shape == (0, 2)
