"""Responses of the service, in-process, with a tiny detector."""

import asyncio
import io
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from fixtures.detectors import FACTS
from fixtures.serving import BERLIN, FORM, encoded, form, metric, photo, until
from PIL import Image

from roadwork.data.images import to_network_input
from roadwork.detector import saliency
from roadwork.detector.detector import Detector
from roadwork.serve.app import create_app
from roadwork.serve.errors import Limits

MODEL_KEYS = {"name", "threshold", "prior", "abstain_low", "abstain_high"}


@pytest.fixture(scope="module")
def detector(model_folder):
    return Detector.load(model_folder, "cpu")


@pytest.fixture(scope="module")
def client(model_folder, detector):
    with TestClient(create_app(model_folder, detector, Limits(max_images=32))) as client:
        yield client


def upload(*photos):
    return [("images", (f"{number}.jpg", data, "image/jpeg")) for number, data in enumerate(photos)]


def test_prediction_equals_that_of_the_detector(client, detector):
    data = photo(0, BERLIN)
    answer = client.post("/predict", files=upload(data)).json()
    expected = detector(data)
    (prediction,) = answer["predictions"]
    assert prediction["filename"] == "0.jpg"
    assert (prediction["label"], prediction["abstain"]) == (expected.label, expected.abstain)
    assert prediction["probability"] == pytest.approx(expected.probability, abs=1e-6)
    assert (prediction["latitude"], prediction["longitude"]) == pytest.approx(BERLIN, abs=1e-6)
    assert answer["model"].keys() == MODEL_KEYS
    assert answer["model"]["threshold"] == FACTS.threshold


def test_position_is_null_without_gps(client):
    for data in map(encoded, ("JPEG", "PNG", "WEBP", "HEIF", "AVIF", "TIFF")):
        (prediction,) = client.post("/predict", files=upload(data)).json()["predictions"]
        assert prediction["latitude"] is None
        assert prediction["longitude"] is None


@pytest.mark.parametrize("kind", ["image/jpeg", "image/png", "application/octet-stream", "Image/JPEG; q=1"])
def test_raw_photo_body_is_accepted(client, detector, kind):
    data = photo(3)
    (prediction,) = client.post("/predict", content=data, headers={"content-type": kind}).json()["predictions"]
    assert prediction["probability"] == pytest.approx(detector(data).probability, abs=1e-6)
    assert prediction["filename"] is None


def test_large_photos_are_spooled_and_read_completely(client, detector):
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    data = encoded_png(noise)
    assert len(data) > 2_000_000  # uploads above a megabyte are spooled to disk
    for answer in (
        client.post("/predict", files=upload(data)),
        client.post("/predict", content=data, headers={"content-type": "image/png"}),
    ):
        (prediction,) = answer.json()["predictions"]
        assert prediction["probability"] == pytest.approx(detector(data).probability, abs=1e-6)


def encoded_png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_many_photos_return_predictions_and_errors_in_order(client, detector):
    photos = [photo(seed) for seed in range(12)]
    bad = {3: b"text", 7: photo(7)[:300]}
    sent = [bad.get(number, data) for number, data in enumerate(photos)]
    response = client.post("/predict", files=upload(*sent))
    assert response.status_code == 200
    answers = response.json()["predictions"]
    assert [answer["filename"] for answer in answers] == [f"{number}.jpg" for number in range(12)]
    assert {number: answer["code"] for number, answer in enumerate(answers) if "error" in answer} == {
        3: "unsupported_format",
        7: "damaged_photo",
    }
    for number, (data, answer) in enumerate(zip(photos, answers, strict=True)):
        if number not in bad:
            assert answer["probability"] == pytest.approx(detector(data).probability, abs=1e-6)
            assert answer["label"] == detector(data).label


def test_predictions_do_not_depend_on_the_batch(model_folder, detector):
    """Eight clients send sixty photos at once, so the batches vary."""
    photos = [photo(seed) for seed in range(60)]
    expected = [prediction.probability for prediction in map(detector, photos)]
    app = create_app(model_folder, detector, Limits(max_batch=7, max_wait_ms=20, queue=100))
    with TestClient(app) as client, ThreadPoolExecutor(8) as clients:
        answers = clients.map(lambda data: client.post("/predict", files=upload(data)).json(), photos)
        got = [answer["predictions"][0]["probability"] for answer in answers]
        text = client.get("/metrics").text
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    n_batches = metric(text, "roadwork_batch_photos_count")
    assert metric(text, "roadwork_batch_photos_sum") == 61  # and one at startup
    assert n_batches < 40  # photos shared batches
    assert metric(text, 'roadwork_batch_photos_bucket{le="8.0"}') == n_batches


def test_file_names_are_returned_with_at_most_255_characters(client):
    for name, expected in (("<img src=x onerror=alert(1)>.jpg",) * 2, ("x" * 4000, "x" * 255)):
        answer = client.post("/predict", content=form(photo(0), name=name), headers={"content-type": FORM}).json()
        assert answer["predictions"][0]["filename"] == expected


def test_health_is_ready_only_between_start_and_stop(model_folder, detector):
    app = create_app(model_folder, detector, Limits())
    before = TestClient(app)  # without `with`, the service is not started
    assert (before.get("/healthz").status_code, before.get("/healthz").json()) == (503, {"status": "starting"})
    with TestClient(app) as client:
        assert (client.get("/healthz").status_code, client.get("/healthz").json()) == (200, {"status": "ready"})
    assert before.get("/healthz").json() == {"status": "shutting_down"}
    rejected = before.post("/predict", files=upload(photo(0)))
    assert (rejected.status_code, rejected.json()["code"]) == (503, "shutting_down")
    assert rejected.headers["retry-after"] == "5"


def test_service_does_not_start_if_the_network_fails(model_folder, detector):
    def fail(_):
        raise RuntimeError("no memory")

    broken = Detector(fail, detector.preprocessing, detector.facts, detector.device)
    with pytest.raises(RuntimeError, match="no memory"), TestClient(create_app(model_folder, broken, Limits())):
        pass


def test_each_service_has_its_own_metrics(model_folder, detector):
    with (
        TestClient(create_app(model_folder, detector, Limits())) as one,
        TestClient(create_app(model_folder, detector, Limits())) as other,
    ):
        one.post("/predict", files=upload(photo(0), b"text"))
        assert metric(one.get("/metrics").text, 'roadwork_photos_total{outcome="answered"}') == 1
        assert metric(one.get("/metrics").text, 'roadwork_photos_total{outcome="unsupported_format"}') == 1
        assert "roadwork_photos_total{" not in other.get("/metrics").text


def test_metrics_group_unknown_paths(client):
    for path in ("/a", "/b?c", "/page/style.css"):
        client.get(path)
    text = client.get("/metrics").text
    assert 'path="other"' in text
    assert 'path="/a"' not in text
    assert metric(text, "roadwork_queue_photos") == 0


def test_openapi_lists_bodies_and_responses(client):
    schema = client.get("/openapi.json").json()
    predict = schema["paths"]["/predict"]["post"]
    assert {"multipart/form-data", "image/jpeg"} <= predict["requestBody"]["content"].keys()
    assert {"200", "400", "408", "413", "415", "422", "429", "503"} <= predict["responses"].keys()
    assert {"PhotoAnswer", "PhotoError", "ErrorAnswer"} <= schema["components"]["schemas"].keys()


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/docs", 404), ("GET", "/predict", 405)])
def test_http_errors_are_json(client, method, path, status):
    response = client.request(method, path)
    assert response.status_code == status
    assert response.json().keys() == {"error", "code"}


def test_every_response_has_security_headers(client):
    for path in ("/", "/page/main.js", "/map/leaflet.js", "/map/land.geojson", "/nope"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"


def test_static_files_cannot_leave_their_folder(client):
    for path in ("/page/../app.py", "/page/%2e%2e/app.py", "/map/..%2f..%2ferrors.py"):
        assert client.get(path).status_code == 404


def test_look_overlays_the_saliency_of_the_photo(client, detector, monkeypatch):
    data, threads, gradient_map = photo(0, size=(96, 72)), [], saliency.gradient_map

    def record_thread(*arguments):
        threads.append(threading.current_thread().name)
        return gradient_map(*arguments)

    monkeypatch.setattr(saliency, "gradient_map", record_thread)
    response = client.post("/look", files=upload(data))
    assert response.headers["content-type"] == "image/png"
    pixels = to_network_input(detector.read(data)[None], detector.preprocessing.statistics)
    look = gradient_map(detector.network.module, pixels)
    expected = saliency.overlay(np.asarray(Image.open(io.BytesIO(data))), look)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(response.content))), expected)
    assert threads[0].startswith("network")


def test_look_rejects_several_photos(client):
    response = client.post("/look", files=upload(photo(0), photo(1)))
    assert (response.status_code, response.json()["code"]) == (400, "one_photo_only")


def test_look_uses_occlusion_without_gradients(model_folder, detector, monkeypatch):
    covered = []
    monkeypatch.setattr(saliency, "occlusion_map", lambda *_: covered.append(1) or np.ones((7, 7), np.float32))
    network = detector.network.module
    without_gradients = Detector(
        lambda pixels: network(pixel_values=pixels).logits, detector.preprocessing, detector.facts, detector.device
    )
    with TestClient(create_app(model_folder, without_gradients, Limits())) as client:
        assert client.post("/look", files=upload(photo(0))).headers["content-type"] == "image/png"
    assert covered == [1]


def test_decoders_use_one_thread_and_the_network_uses_all(model_folder, detector):
    torch.set_num_threads(2)
    seen = {}
    read, logits = detector.read, detector.logits
    watched = Detector(detector.network, detector.preprocessing, detector.facts, detector.device)
    watched.read = lambda data: seen.setdefault("decoder", torch.get_num_threads()) and read(data)
    watched.logits = lambda pixels: seen.setdefault("network", torch.get_num_threads()) and logits(pixels)
    app = create_app(model_folder, watched, Limits())
    with TestClient(app) as client:
        client.post("/predict", files=upload(photo(0)))
    assert seen == {"decoder": 1, "network": 2}


def test_decoding_does_not_block_the_event_loop(model_folder, detector):
    """/healthz responds while a decoder hangs."""
    release = threading.Event()
    slow = Detector(detector.network, detector.preprocessing, detector.facts, detector.device)
    slow.read = lambda data: release.wait(20) and detector.read(data)
    app = create_app(model_folder, slow, Limits())

    async def run():
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
        ):
            asked = asyncio.create_task(client.post("/predict", files=upload(photo(0))))
            await until(lambda: app.state.service.queue.used == 1)
            health = await asyncio.wait_for(client.get("/healthz"), 5)
            taken = app.state.service.queue.used
            release.set()
            return health.status_code, taken, (await asked).status_code, app.state.service.queue.used

    assert asyncio.run(run()) == (200, 1, 200, 0)
