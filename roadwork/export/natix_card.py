"""model_card.json: what NATIX StreetVision asks of a published model.

The fields are those of docs/Mining.md and natix/utils/model_format.py in github.com/natixnetwork/streetvision-subnet:
model_name, description, version (X.Y.Z), submitted_by (the wallet's hotkey) and submission_time (Unix seconds, not in
the future) are required of a miner, architecture and notes are optional. The validator refuses a hotkey that is not the
miner's and takes the name once, so the name carries the weights' hash, and the hotkey is left for the user to fill in.
"""

from __future__ import annotations

import time
from typing import Any

from roadwork.evaluation.evaluate import TEST_SPLIT
from roadwork.export.run_facts import RunFacts

HOTKEY_PLACEHOLDER = "<WALLET_HOTKEY_ADDRESS>"
FIRST_VERSION = "1.0.0"


def build_natix_card(name: str, architecture: str, run: RunFacts) -> dict[str, Any]:
    """The content of model_card.json.

    Args:
        name: of the model.
        architecture: class of the network.
        run: what is known of its run.
    """
    result = run.result
    notes = "Never evaluated."
    if result is not None and result["mcc"] is not None:
        bounds = (
            "" if result["mcc_low"] is None else f" (95 % interval {result['mcc_low']:.4f} to {result['mcc_high']:.4f})"
        )
        notes = f"MCC {result['mcc']:.4f}{bounds} on {result['n']:,} photos of {TEST_SPLIT}, {run.data.name}."
    return {
        "model_name": name,
        "description": "Whether a street photo shows roadwork: the score of the label Roadwork, decided at 0.5.",
        "version": FIRST_VERSION,
        "submitted_by": HOTKEY_PLACEHOLDER,
        "submission_time": int(time.time()),
        "architecture": architecture,
        "notes": notes,
    }
