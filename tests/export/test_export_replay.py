import hashlib
import json
from io import BytesIO

import numpy as np
import pytest
from PIL import ExifTags, Image

from roadwork.core.errors import DataError
from roadwork.export.replay import SCENES, draw_scenes, read_replay, write_replay


def test_replay_scenes_are_small_distinct_and_without_gps():
    scenes = draw_scenes()
    assert len(scenes) == len(set(scenes)) == SCENES == 32
    assert sum(map(len, scenes)) < 500_000
    for scene in scenes:
        image = Image.open(BytesIO(scene))
        assert image.format == "JPEG"
        assert not image.getexif().get_ifd(ExifTags.IFD.GPSInfo)


def test_scenes_are_reproducible():
    assert draw_scenes.__wrapped__() == draw_scenes()


def test_replay_round_trip(tmp_path):
    scenes = list(draw_scenes())
    probabilities = np.linspace(0, 1, SCENES)
    write_replay(tmp_path, scenes, probabilities, threshold=probabilities[20])
    photos = read_replay(tmp_path)
    assert [photo.file.read_bytes() for photo in photos] == scenes
    assert [photo.sha256 for photo in photos] == [hashlib.sha256(scene).hexdigest() for scene in scenes]
    assert [photo.probability for photo in photos] == probabilities.tolist()
    assert [photo.is_roadwork for photo in photos] == [False] * 20 + [True] * 12


ROW = {"file": "00.jpg", "sha256": "", "probability": 0.5, "is_roadwork": True}


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"format": 1, "photos": []},
        {"format": 2, "photos": [ROW]},
        {"format": 1, "photos": [{}]},
        {"format": 1, "photos": [7]},
        {"format": 1, "photos": [ROW | {"probability": "high"}]},
    ],
)
def test_damaged_replay_is_rejected(content, tmp_path):
    (tmp_path / "replay").mkdir()
    (tmp_path / "replay" / "replay.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="Export again"):
        read_replay(tmp_path)


def test_replay_reads_no_file_outside_the_folder(tmp_path):
    (tmp_path / "replay").mkdir()
    rows = [ROW | {"file": "../../secret.jpg"}]
    (tmp_path / "replay" / "replay.json").write_text(json.dumps({"format": 1, "photos": rows}))
    assert [photo.file for photo in read_replay(tmp_path)] == [tmp_path / "replay" / "secret.jpg"]
