"""Debian's chromium, for tests that look at pages."""

import os
import shutil

import pytest

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]


def need_chromium():
    """Skips where there is none; where CI is set, that is a failure."""
    if CHROMIUM is None:
        reason = "no chromium on this machine, so nothing is looked at"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
