"""Rejected requests, and the state of the service afterwards, in-process, with a tiny detector."""

import asyncio
import logging
import threading

import httpx
import pytest
from fastapi.testclient import TestClient
from fixtures.serving import FORM, HOSTILE, MAX_MB, MEGAPIXELS, encoded, form, metric, photo, until

from roadwork.core.errors import ConfigError
from roadwork.detector.detector import Detector
from roadwork.serve.app import create_app
from roadwork.serve.errors import Limits

LIMITS = Limits(max_mb=MAX_MB, max_megapixels=MEGAPIXELS)
FILES = [("images", ("a.jpg", photo(0), "image/jpeg"))]


@pytest.fixture(scope="module")
def detector(model_folder):
    return Detector.load(model_folder, "cpu")


@pytest.fixture(scope="module")
def client(model_folder, detector):
    with TestClient(create_app(model_folder, detector, LIMITS)) as client:
        yield client


def with_slow_reader(detector, seconds_or_event):
    slow = Detector(detector.network, detector.preprocessing, detector.facts, detector.device)
    slow.read = lambda data: seconds_or_event.wait(20) and detector.read(data)
    return slow


async def in_process(app, work):
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        return await work(http)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_request_gets_a_status_and_a_code(client, name):
    hostile = HOSTILE[name]
    response = client.post("/predict", content=hostile.body, headers={"content-type": hostile.content_type})
    assert (response.status_code, response.json()["code"]) == (hostile.status, hostile.code)
    assert response.json()["error"]
    assert "Traceback" not in response.text
    assert client.app.state.service.queue.used == 0
    assert client.post("/predict", files=FILES).status_code == 200


@pytest.mark.parametrize("name", ["truncated", "text named jpg", "empty file", "bomb of pixels"])
def test_look_rejects_hostile_requests(client, name):
    hostile = HOSTILE[name]
    response = client.post("/look", content=hostile.body, headers={"content-type": hostile.content_type})
    assert (response.status_code, response.json()["code"]) == (hostile.status, hostile.code)


def test_limit_of_pixels_is_inclusive(client):
    for width, status in ((2000, 200), (2001, 413)):
        data = encoded("PNG", (width, 1000), "L")
        assert client.post("/predict", content=form(data), headers={"content-type": FORM}).status_code == status


def test_limit_of_body_size_is_inclusive(client):
    data = photo(0)
    for extra, status in ((0, 200), (1, 413)):
        body = data + bytes(MAX_MB * 1_000_000 - len(data) + extra)
        response = client.post("/predict", content=body, headers={"content-type": "image/jpeg"})
        assert response.status_code == status


def test_limit_of_photos_is_inclusive(model_folder, detector):
    with TestClient(create_app(model_folder, detector, Limits(max_images=3))) as client:
        for count, status in ((3, 200), (4, 413)):
            assert client.post("/predict", files=FILES * count).status_code == status


def test_endless_body_is_rejected_at_the_limit(model_folder, detector):
    """The service reads no more than the limit, and as much again before it closes the connection."""
    app = create_app(model_folder, detector, LIMITS)
    sent, messages = 0, []

    async def receive():
        nonlocal sent
        sent += 100_000
        return {"type": "http.request", "body": bytes(100_000), "more_body": True}

    async def send(message):
        messages.append((sent, message))

    async def ask():
        headers = [(b"content-type", b"image/jpeg"), (b"transfer-encoding", b"chunked")]
        scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "headers": headers}
        async with app.router.lifespan_context(app):
            await app(scope, receive, send)

    asyncio.run(ask())
    (when, start), *_, (end, last) = messages
    assert start["status"] == 413
    assert (b"connection", b"close") in start["headers"]
    assert when <= MAX_MB * 1_000_000 + 100_000
    assert end <= 2 * MAX_MB * 1_000_000 + 300_000
    assert last["more_body"] is False


def test_slow_body_gets_408(model_folder, detector):
    app = create_app(model_folder, detector, Limits(timeout=0.3))

    async def trickle():
        while True:
            yield b"x"
            await asyncio.sleep(0.05)

    async def ask(http):
        return await http.post("/predict", content=trickle(), headers={"content-type": "image/jpeg"})

    response = asyncio.run(in_process(app, ask))
    assert (response.status_code, response.json()["code"]) == (408, "body_too_slow")
    assert app.state.service.queue.used == 0


def test_slow_prediction_gets_503(model_folder, detector):
    release = threading.Event()
    app = create_app(model_folder, with_slow_reader(detector, release), Limits(timeout=0.3))

    async def ask(http):
        late = await http.post("/predict", files=FILES)
        release.set()
        return late, await http.post("/predict", files=FILES)

    late, then = asyncio.run(in_process(app, ask))
    assert (late.status_code, late.json()["code"], late.headers["retry-after"]) == (503, "not_in_time", "5")
    assert then.status_code == 200
    assert app.state.service.queue.used == 0


def test_full_queue_gets_429_and_accepted_requests_finish(model_folder, detector):
    release = threading.Event()
    app = create_app(model_folder, with_slow_reader(detector, release), Limits(queue=4, max_images=4))

    async def ask(http):
        taken = [asyncio.create_task(http.post("/predict", files=FILES * count)) for count in (1, 2)]
        await until(lambda: app.state.service.queue.used == 3)
        two_more = await http.post("/predict", files=FILES * 2)
        text = (await http.get("/metrics")).text
        taken.append(asyncio.create_task(http.post("/predict", files=FILES)))
        await until(lambda: app.state.service.queue.used == 4)
        one_more = await http.post("/predict", files=FILES)
        release.set()
        return two_more, one_more, text, [(await task).status_code for task in taken]

    two_more, one_more, text, taken = asyncio.run(in_process(app, ask))
    for rejected in (two_more, one_more):
        assert (rejected.status_code, rejected.json()["code"], rejected.headers["retry-after"]) == (
            429,
            "queue_full",
            "1",
        )
    assert metric(text, "roadwork_queue_photos") == 3
    assert taken == [200, 200, 200]
    assert app.state.service.queue.used == 0


def test_internal_error_is_a_500_without_details_and_is_logged(model_folder, detector, caplog):
    calls = []

    def fail_later(pixels):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("secret detail")
        return detector.network(pixels)

    broken = Detector(fail_later, detector.preprocessing, detector.facts, detector.device)
    with TestClient(create_app(model_folder, broken, LIMITS)) as client, caplog.at_level(logging.ERROR):
        response = client.post("/predict", files=FILES)
        text = client.get("/metrics").text
        assert client.post("/predict", files=FILES).status_code == 200  # the next batch succeeds
    assert (response.status_code, response.json()["code"]) == (500, "internal")
    assert "secret" not in response.text
    assert "secret detail" in caplog.text
    assert metric(text, 'roadwork_requests_total{path="/predict",status="500"}') == 1


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"max_batch": 0}, "--max-batch is 0"),
        ({"max_wait_ms": -1.0}, "--max-wait-ms is -1"),
        ({"timeout": float("inf")}, "--timeout is inf"),
        ({"queue": 8}, "--max-images is 32 and --queue 8"),
        ({"max_megapixels": 300.0}, "--max-megapixels is 300"),
    ],
)
def test_invalid_limits_are_rejected(settings, named):
    with pytest.raises(ConfigError, match=named):
        Limits(**settings)
