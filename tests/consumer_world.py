"""The environment of a StreetVision miner, for tests of exported folders."""

from pathlib import Path

import pytest
from fixtures.config import CHECKOUT


def find_consumer_python(environment):
    """The interpreter; without it a test is skipped, but fails where CI is set: never skipped in silence there."""
    python = Path(environment.get("ROADWORK_CONSUMER_PYTHON") or CHECKOUT / ".venv-consumer/bin/python")
    if not python.is_file():
        reason = f"{python} is not there: `make consumer` installs the consumer's environment (transformers 4.45.2)."
        (pytest.fail if environment.get("CI") else pytest.skip)(reason)
    return python
