"""`roadwork serve`: a detector as a web service, with a page to drop photos on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roadwork.cli.app import app

if TYPE_CHECKING:
    from roadwork.export.facts import ExportFacts


@app.command()
def serve(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A folder that `roadwork export` has written.")],
    *,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0: reachable from other machines.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: a free one.", min=0, max=65535)] = 8000,
    max_batch: Annotated[int, typer.Option(help="Photos that go through the network at once.")] = 16,
    max_wait_ms: Annotated[float, typer.Option(help="How long the first photo of a batch waits for others.")] = 5.0,
    queue: Annotated[int, typer.Option(help="Photos that may wait or be answered; above, requests get 429.")] = 64,
    max_mb: Annotated[float, typer.Option(help="Megabytes of a request.")] = 25.0,
    max_images: Annotated[int, typer.Option(help="Photos in a request.")] = 32,
    max_megapixels: Annotated[float, typer.Option(help="Million pixels of a photo.")] = 50.0,
    timeout: Annotated[float, typer.Option(help="Seconds for a request to come, and to be answered.")] = 30.0,
    device: Annotated[str, typer.Option(help="auto (a GPU where there is one), cpu, cuda, cuda:1, ...")] = "auto",
) -> None:
    """Answer photos over HTTP, and show a page to drop them on.

    `roadwork export RUN --out MODEL` comes first. Example: roadwork serve model --port 8000
    """
    from roadwork.errors import MissingExtraError

    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"`roadwork serve` needs {error.name}. Install it: pip install 'roadwork-vision[serve]'"
        ) from error
    from roadwork.inference.detector import Detector
    from roadwork.serving.app import create_app
    from roadwork.serving.limits import Limits
    from roadwork.serving.server import address_of, open_socket
    from roadwork.serving.server import serve as serve_app

    limits = Limits(max_batch, max_wait_ms, queue, max_mb, max_images, max_megapixels, timeout)
    with open_socket(host, port) as bound:
        detector = Detector.load(model, device)
        address = address_of(bound)

        def announce() -> None:
            print(f"Serving {model} on {detector.device} at {address}")
            print(_what_it_says(detector.facts))
            print(f"Open the address in a browser, or try: curl -F images=@photo.jpg {address}/predict", flush=True)

        serve_app(create_app(model, detector, limits), bound, announce)


def _what_it_says(facts: ExportFacts) -> str:
    prior = "of no known prior (not calibrated)" if facts.prior is None else f"for a prior of {facts.prior:.3g}"
    said = f"It says Roadwork from a probability of {facts.threshold:.3g}, {prior}"
    if facts.abstain_low is None or facts.abstain_high is None:
        return f"{said}."
    return f"{said}, and abstains from {facts.abstain_low:.3g} to {facts.abstain_high:.3g}."
