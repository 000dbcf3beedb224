"""Street-image detectors that hold up somewhere else on the map.

`from roadwork import Detector; Detector.load("model")("photo.jpg")` answers for a photo.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roadwork.detector.detector import Detector, Prediction

__version__ = "0.2.0"
__all__ = ["Detector", "Prediction", "__version__"]

if __name__ == "src":  # a user's `from src.data... import ...`
    from roadwork.src_alias import alias_package

    alias_package("src", "roadwork")


def __getattr__(name: str) -> Any:
    """`Detector` and `Prediction` on first use: they need torch, which takes seconds to import."""
    if name in {"Detector", "Prediction"}:
        from roadwork.detector import detector  # noqa: PLC0415

        return getattr(detector, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
