"""Privacy: thumbnails without EXIF, blur, coarse positions."""

import io

import numpy as np
import pandas as pd
from PIL import Image

from roadwork.report.privacy import coarsen_predictions, make_thumbnail


def encode(pixels, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


def test_thumbnail_is_small_upright_and_without_exif():
    pixels = np.zeros((600, 1200, 3), dtype=np.uint8)
    pixels[:, :600] = (250, 0, 0)
    exif = Image.Exif()
    exif[274] = 6  # rotate by 90 degrees: the red left half becomes the top half
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    data = encode(pixels, exif=exif)
    assert b"Exif" in data
    small = make_thumbnail(data, 0)
    assert b"Exif" not in small
    with Image.open(io.BytesIO(small)) as image:
        assert image.size == (160, 320)
        assert dict(image.getexif()) == {}
        assert image.getpixel((80, 40))[0] > 200
        assert image.getpixel((80, 280))[0] < 60


def test_blur_removes_detail():
    rng = np.random.default_rng(0)
    data = encode(np.repeat(np.repeat(rng.integers(0, 2, (60, 80, 1)) * 255, 4, 0), 4, 1).repeat(3, 2).astype(np.uint8))
    spreads = [np.asarray(Image.open(io.BytesIO(make_thumbnail(data, blur))), float).std() for blur in (0, 2, 8)]
    assert spreads[0] > 100
    assert spreads[1] < 0.7 * spreads[0]
    assert spreads[2] < 0.2 * spreads[0]


def test_positions_are_no_finer_than_requested():
    n = 40
    rng = np.random.default_rng(0)
    latitude, longitude = 52.5 + rng.uniform(0, 0.2, n), 13.4 + rng.uniform(0, 0.2, n)
    frame = pd.DataFrame(
        {
            "id": "a", "filename": "a.jpg", "split": "val_test", "label": 0, "logit_none": 0.0, "logit_roadwork": 0.0,
            "probability": 0.5, "latitude": latitude, "longitude": longitude, "group": "road/891f1d48177ffff",
            "distance_km": rng.uniform(0, 90, n), "where": [f"{lat:.6f}" for lat in latitude], "geohash": "u33d",
            "weather": "rain",
        }
    )  # fmt: skip
    assert coarsen_predictions(frame, None) is frame
    coarse = coarsen_predictions(frame, 1)
    np.testing.assert_array_equal(coarse["latitude"], np.round(latitude, 1))
    assert "where" not in coarse
    assert "geohash" not in coarse
    assert "weather" in coarse
    assert set(coarse["group"]) == {"road/part-0"}
    assert len(coarse["distance_km"].unique()) <= 10
