"""`roadwork serve` as a process: messages, rejected requests, shutdown."""

import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from fixtures.serving import FORM, form, photo, running_server

from roadwork.cli.main import main
from roadwork.serve import server as server_module
from roadwork.serve.server import address_of, open_socket


def connect(url):
    address = httpx.URL(url)
    return socket.create_connection((address.host, address.port), timeout=20)


def head_of_a_post(length):
    return f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM}\r\nContent-Length: {length}\r\n\r\n".encode()


def test_server_announces_serves_and_drains(model_folder):
    """One server for all checks, because a start takes seconds."""
    body = form(photo(0))
    with running_server(model_folder, "--timeout", "20") as server:
        for value in ("0.45", "prior 0.5", "0.44", "0.46", f"{server.url}/predict"):
            assert value in server.announced
        assert httpx.get(f"{server.url}/healthz").json() == {"status": "ready"}
        # A half-received request is finished, although the server got SIGTERM meanwhile.
        with connect(server.url) as slow, ThreadPoolExecutor(1) as others:
            slow.sendall(head_of_a_post(len(body)) + body[:100])
            wait_for_queued_photo(server.url)
            server.process.send_signal(signal.SIGTERM)
            rejected = others.submit(ask_until_rejected, server.url, body).result()
            slow.sendall(body[100:])
            answer = receive_all(slow)
        assert (rejected.status_code, rejected.json()["code"]) == (503, "shutting_down")
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b'"probability"' in answer
        assert server.process.wait(timeout=20) == 0
        assert "Traceback" not in server.process.stderr.read()


def wait_for_queued_photo(url):
    while "roadwork_queue_photos 1.0" not in httpx.get(f"{url}/metrics").text:
        time.sleep(0.02)


def ask_until_rejected(url, body):
    while True:
        response = httpx.post(f"{url}/predict", content=body, headers={"content-type": FORM})
        if response.status_code != 200:
            return response


def receive_all(connection):
    received = b""
    while part := connection.recv(65536):
        received += part
    return received


@pytest.mark.slow
def test_server_stops_in_time_with_an_endless_client(model_folder):
    with running_server(model_folder, "--timeout", "1") as server, connect(server.url) as endless:
        endless.sendall(head_of_a_post(10**6) + b"--b")
        wait_for_queued_photo(server.url)
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=20) == 0
        assert time.monotonic() - started < 12
        assert receive_all(endless).startswith(b"HTTP/1.1 408")


@pytest.fixture
def quick_server(model_folder, monkeypatch):
    """The server in a thread of this process, with a short header timeout."""
    import asyncio
    import threading

    import uvicorn

    from roadwork.detector.detector import Detector
    from roadwork.serve.app import create_app
    from roadwork.serve.errors import Limits

    monkeypatch.setattr(server_module, "_HEADER_SECONDS", 0.3)
    bound = open_socket("127.0.0.1", 0)
    app = create_app(model_folder, Detector.load(model_folder, "cpu"), Limits())
    config = uvicorn.Config(app, http=server_module._HeaderTimeoutProtocol, ws="none", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([bound])))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield address_of(bound)
    server.should_exit = True
    thread.join()


def test_slow_headers_are_cut_off(quick_server):
    with connect(quick_server) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert slow.recv(100) == b""  # closed without a response
    with connect(quick_server) as slow:  # the same after a first request
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /he")
        assert receive_all(slow).startswith(b"HTTP/1.1 200 OK")


def test_header_timeout_does_not_cut_off_requests(quick_server):
    """A body may take longer than the headers."""
    body = form(photo(0))
    with connect(quick_server) as slow:
        slow.sendall(head_of_a_post(len(body)))
        time.sleep(0.6)
        slow.sendall(body)
        assert slow.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_port_in_use_is_reported(model_folder, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as exited:
        main(["serve", str(model_folder), "--port", str(taken.getsockname()[1])])
    assert exited.value.code == 2
    assert "--port" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--max-images", "65"], "--queue"),
        (["--host", "192.0.2.1"], "--host"),
    ],
)
def test_invalid_options_are_rejected(model_folder, capsys, arguments, named):
    with pytest.raises(SystemExit) as exited:
        main(["serve", str(model_folder), "--port", "0", *arguments])
    assert exited.value.code == 2
    assert named in capsys.readouterr().err


def test_folder_without_a_detector_is_rejected(tmp_path, capsys):
    with pytest.raises(SystemExit) as exited:
        main(["serve", str(tmp_path), "--port", "0"])
    assert exited.value.code == 1
    assert "roadwork export" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client", "python_multipart"])
def test_missing_package_names_the_install_command(model_folder, capsys, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit) as exited:
        main(["serve", str(model_folder), "--port", "0"])
    assert exited.value.code == 1
    assert "pip install 'roadwork-vision[serve]'" in capsys.readouterr().err


def test_help_does_not_import_torch():
    help_only = "try: main(['serve', '--help'])\nfinally: print('torch' in sys.modules)"
    code = f"import sys; from roadwork.cli import main\n{help_only}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "roadwork serve model" in " ".join(done.stdout.split())
    assert done.stdout.rstrip().endswith("False")
