"""The verdict on the latest photos of a service."""

import numpy as np
import pytest
from fastapi.testclient import TestClient
from fixtures.serving import metric, photo

from roadwork.detector.detector import Detector
from roadwork.detector.familiarity import FACTS, REFERENCE_FILE, Reference
from roadwork.serve.app import create_app
from roadwork.serve.errors import Limits


def upload(*photos):
    return [("images", (f"{number}.jpg", data, "image/jpeg")) for number, data in enumerate(photos)]


@pytest.mark.parametrize(("limit", "verdict"), [(1000.0, "familiar"), (0.0, "unfamiliar")])
def test_latest_photos_are_judged(model_folder, limit, verdict):
    detector = Detector.load(model_folder, "cpu")
    features = np.random.default_rng(0).normal(size=(60, 16)).astype(np.float32)
    null = np.full((1, 20), limit)
    detector.reference = Reference(features, np.arange(60), np.ones((60, len(FACTS))), np.array([8]), null)
    with TestClient(create_app(model_folder, detector, Limits(max_images=32))) as client:
        assert client.get("/familiarity").json()["n"] == 0
        client.post("/predict", files=upload(*map(photo, range(10))))
        found = client.get("/familiarity").json()
        assert (found["verdict"], found["n"]) == (verdict, 8)
        assert metric(client.get("/metrics").text, 'roadwork_familiarity{value="limit"}') == limit


def test_model_without_reference_names_the_missing_file(model_folder):
    with TestClient(create_app(model_folder, Detector.load(model_folder, "cpu"), Limits())) as client:
        found = client.get("/familiarity").json()
    assert (found["verdict"], found["auc"]) == ("unknown", None)
    assert REFERENCE_FILE in found["reason"]
