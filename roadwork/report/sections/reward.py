"""What StreetVision's validator would pay."""

from __future__ import annotations

from typing import Any

from roadwork.evaluation.metrics import decide
from roadwork.evaluation.streetvision.reward import simulate_reward
from roadwork.report.run_files import TEST_SPLIT, RunFiles
from roadwork.report.section import Section, why_no_test_rows

_PREFIX = f"{TEST_SPLIT}_streetvision"


def reward_section(run: RunFiles) -> Section:
    """The simulated reward on val_test, and the figures by level where `evaluate --profile` has made them."""
    title = "Expected reward in StreetVision"
    rows = run.test_rows
    if rows is None:
        return Section("reward", title, missing=why_no_test_rows(run.predictions))
    labels = rows["label"].to_numpy()
    if len(set(labels.tolist())) < 2:
        return Section("reward", title, missing="val_test holds one class only, so no reward can be simulated.")
    decisions = decide(rows["probability"].to_numpy(), run.threshold)
    profiles = {
        key.removeprefix(f"{TEST_SPLIT}_"): _show_profile(result)
        for key, result in run.results.items()
        if key.startswith(_PREFIX)
    }
    shown = {"reward": simulate_reward(labels, decisions, seed=run.settings.evaluation.seed), "profiles": profiles}
    return Section("reward", title, shown)


def _show_profile(result: dict[str, Any]) -> dict[str, Any]:
    """Figures by level, and all levels together."""
    confusion = result.get("confusion", {})
    whole = result | {"level": "all", "errors": confusion.get("fp", 0) + confusion.get("fn", 0)}
    return {"levels": [*result.get("by_level", []), whole], "reward": result.get("reward")}
