import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageFile
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import IFDRational

from roadwork.data.images import FileImages
from roadwork.data.utils.exif import _degrees, read_camera_metadata, read_exif_gps, read_exif_gps_table

GPS = ExifTags.GPS


def photo(path, tags, fmt="JPEG"):
    exif = Image.Exif()
    if tags is not None:
        exif.get_ifd(ExifTags.IFD.GPSInfo).update(tags)
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2024:05:01 10:20:30"
    Image.new("RGB", (16, 16), "gray").save(path, fmt, exif=exif.tobytes())
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


@given(
    latitude=st.integers(-90 * 3600 * 10**4, 90 * 3600 * 10**4),
    longitude=st.integers(-180 * 3600 * 10**4, 180 * 3600 * 10**4),
    signed=st.sampled_from(["none", "degrees", "all parts"]),
)
def test_signed_parts_beside_a_letter_keep_the_hemisphere(latitude, longitude, signed):
    """EXIF writers put a sign nowhere, on the first part that is not zero, or on all parts."""

    def parts(value):
        seconds = abs(value)
        numbers = [seconds // 36_000_000, seconds // 600_000 % 60, seconds % 600_000 / 10**4]
        first = next((place for place, number in enumerate(numbers) if number), 0)
        negative = value < 0 and signed != "none"
        return [
            -number if negative and (signed == "all parts" or place == first) else number
            for place, number in enumerate(numbers)
        ]

    found = (
        _degrees(parts(latitude), "NS"[latitude < 0], "NS"),
        _degrees(parts(longitude), "EW"[longitude < 0], "EW"),
    )
    assert found == pytest.approx((latitude / 36_000_000, longitude / 36_000_000), abs=1e-9)


@pytest.mark.parametrize(
    ("parts", "letter"),
    [((-33, 51, 30), "N"), ((33, -51, 30), "S"), ((-33, -51, 30), "S"), ((33, 51, -30), "N")],
)
def test_contradicting_signs_are_not_a_position(parts, letter):
    with pytest.raises(ValueError, match="51"):
        _degrees(parts, letter, "NS")


def test_signed_rationals_in_a_file(tmp_path):
    path = photo(tmp_path / "a.jpg", gps_tags(latitude=(33.0, 51.0, 30.0), latitude_ref="S"))
    data = bytearray(path.read_bytes())
    entry = data.index(b"\0\x02\0\x05\0\0\0\x03")  # GPSLatitude, three unsigned rationals
    data[entry + 3] = 10  # signed rationals
    at = data.index((33).to_bytes(4, "big") + (1).to_bytes(4, "big"))
    data[at : at + 4] = (-33).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    assert read_exif_gps(path) == pytest.approx((-33.8583333, 13.4), abs=1e-6)


XMP_FORMS = {
    "attributes, decimal minutes": 'exif:GPSLatitude="33,51.5S" exif:GPSLongitude="151,12.5E"/>',
    "attributes, seconds": "exif:GPSLatitude='33,51,30S' exif:GPSLongitude='151,12,30E'/>",
    "elements": "><exif:GPSLongitude>151,12.5E</exif:GPSLongitude><exif:GPSLatitude>33,51.5S</exif:GPSLatitude>",
}


def test_xmp_of_a_png_is_read_without_decoding(tmp_path, monkeypatch):
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", XMP_FORMS["elements"])
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png", pnginfo=text)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    assert read_exif_gps(tmp_path / "a.png") == pytest.approx((-33.8583333, 151.2083333), abs=1e-6)


@pytest.mark.parametrize("form", XMP_FORMS)
def test_xmp_position_without_exif(tmp_path, form):
    path = tmp_path / "a.jpg"
    packet = f'<rdf:Description xmlns:exif="http://ns.adobe.com/exif/1.0/" {XMP_FORMS[form]}'
    Image.new("RGB", (16, 16)).save(path, xmp=packet.encode())
    expected = (-33.8583333, 151.2083333)
    assert read_exif_gps(path) == pytest.approx(expected, abs=1e-6)
    assert read_camera_metadata(path.read_bytes())[:2] == pytest.approx(expected, abs=1e-6)
    Image.new("RGB", (16, 16)).save(path, xmp=packet.replace("51", "61").encode())
    assert np.isnan(read_exif_gps(path)).all()


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        ('exif:DateTimeOriginal="2024-05-01T10:20:30+02:00"/>', "2024-05-01T10:20:30+02:00"),
        ("><exif:DateTimeOriginal>2024-05-01T10:20:30.75Z</exif:DateTimeOriginal>", "2024-05-01T10:20:30Z"),
        ("photoshop:DateCreated='2024-05-01T10:20'/>", "2024-05-01T10:20:00"),
        ('exif:DateTimeOriginal="2024-02-31T10:20:30"/>', ""),
        ('photoshop:DateCreated="2024-05-01"/>', ""),
        ('xmp:ModifyDate="2024-05-01T10:20:30"/>', ""),
    ],
)
def test_xmp_time_without_exif(tmp_path, packet, expected):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (16, 16)).save(path, xmp=f"<rdf:Description {packet}".encode())
    assert read_camera_metadata(path.read_bytes()).captured_at == expected


def test_exif_time_comes_before_xmp(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2024:05:01 10:20:30"
    path = tmp_path / "a.jpg"
    Image.new("RGB", (16, 16)).save(path, exif=exif, xmp=b'<x exif:DateTimeOriginal="2020-01-01T00:00:00"/>')
    assert read_camera_metadata(path.read_bytes()).captured_at == "2024-05-01T10:20:30"


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
        gps_tags(latitude=(52.0, 60.0, 0.0)),
        gps_tags(longitude=(13.0, 24.0, 60.0)),
        gps_tags(latitude=(52.5, 31.0, 0.0)),
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
    table = read_exif_gps_table(FileImages(paths), range(40))
    expected = [[float(i), 13.4] if i % 3 else [np.nan, np.nan] for i in range(40)]
    np.testing.assert_allclose(table, expected, atol=1e-9)
    assert read_exif_gps_table(FileImages([]), []).shape == (0, 2)
