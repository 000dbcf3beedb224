"""`roadwork serve`, as a process: what it prints, whom it refuses, and how it ends."""

import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from serving_world import FORM, form, photo, running_server

from roadwork.cli.main import main
from roadwork.serve import server as server_module
from roadwork.serve.server import address_of, open_socket


def connect(url):
    address = httpx.URL(url)
    return socket.create_connection((address.host, address.port), timeout=20)


def head_of_a_post(length):
    return f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM}\r\nContent-Length: {length}\r\n\r\n".encode()


def test_it_serves_and_stops_in_order(model_folder):
    """One process for all of it: to start takes seconds."""
    body = form(photo(0))
    with running_server(model_folder, "--timeout", "20") as server:
        assert "threshold" not in server.announced
        assert "0.45 or more, prior 0.5; abstains from 0.44 to 0.46" in server.announced
        assert f"curl -F images=@photo.jpg {server.url}/predict" in server.announced
        assert httpx.get(f"{server.url}/healthz").json() == {"status": "ready"}
        # A request of which half has come is answered, though the server has been told to stop meanwhile.
        with connect(server.url) as slow, ThreadPoolExecutor(1) as others:
            slow.sendall(head_of_a_post(len(body)) + body[:100])
            wait_for_place(server.url)
            server.process.send_signal(signal.SIGTERM)
            refused = others.submit(ask_until_refused, server.url, body).result()
            slow.sendall(body[100:])
            answer = receive_all(slow)
        assert (refused.status_code, refused.json()["code"]) == (503, "shutting_down")
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b'"probability"' in answer
        assert server.process.wait(timeout=20) == 0
        assert "Traceback" not in server.process.stderr.read()


def wait_for_place(url):
    while "roadwork_queue_photos 1.0" not in httpx.get(f"{url}/metrics").text:
        time.sleep(0.02)


def ask_until_refused(url, body):
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
        wait_for_place(server.url)
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=20) == 0
        assert time.monotonic() - started < 12
        assert receive_all(endless).startswith(b"HTTP/1.1 408")


@pytest.fixture
def quick_server(model_folder, monkeypatch):
    """The server in a thread of this process, impatient with headers."""
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
        assert slow.recv(100) == b""  # closed without an answer
    with connect(quick_server) as slow:  # nor after a first request, which is answered
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /he")
        assert receive_all(slow).startswith(b"HTTP/1.1 200 OK")


def test_header_timeout_does_not_cut_off_requests(quick_server):
    """A body may take longer than headers may."""
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
    assert "cannot be opened: Address already in use. Name another --port" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--max-images", "65"], 2, "Raise --queue"),
        (["--host", "192.0.2.1"], 2, "a --host of this machine"),
    ],
)
def test_options_that_cannot_be_used_are_refused(model_folder, capsys, arguments, code, said):
    with pytest.raises(SystemExit) as exited:
        main(["serve", str(model_folder), "--port", "0", *arguments])
    assert exited.value.code == code
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_folder_that_is_no_detector_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as exited:
        main(["serve", str(tmp_path), "--port", "0"])
    assert exited.value.code == 1
    assert "roadwork export" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client", "python_multipart"])
def test_a_missing_package_names_the_install_command(model_folder, capsys, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit) as exited:
        main(["serve", str(model_folder), "--port", "0"])
    assert exited.value.code == 1
    assert "pip install 'roadwork-vision[serve]'" in capsys.readouterr().err


def test_help_comes_without_loading_torch():
    help_only = "try: main(['serve', '--help'])\nfinally: print('torch' in sys.modules)"
    code = f"import sys; from roadwork.cli import main\n{help_only}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Example: roadwork serve model --port 8000" in " ".join(done.stdout.split())
    assert done.stdout.rstrip().endswith("False")
