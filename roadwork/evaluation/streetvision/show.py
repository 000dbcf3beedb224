"""What a detector gets under a StreetVision profile, for a terminal of 80 columns."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from roadwork.evaluation.streetvision.profiles import find_profile
from roadwork.evaluation.streetvision.reward import MCC_ANSWERS

_LEVELS = ("centre square", "turned and cropped", "also distorted", "distorted more")


def format_profile(result: dict[str, Any]) -> Group:
    """Title, MCC by level and over all, the reward, and what no model can avoid."""
    profile = find_profile(result["profile"])
    title = Text.assemble(
        (f"val_test as {profile.name}", "bold"), f": {result['n']:,} pictures in {result['groups']:,} groups"
    )
    calibration = (
        f"Decided above 0.5, with temperature {result['temperature']:.4g} and threshold {result['threshold']:.4g} "
        "folded in."
    )
    leaks = [Text.assemble(("Leaks  ", "bold red"), leak) for leak in result["leaks"]]
    lines: list[Text | Table] = [title, Text(profile.meaning), Text(calibration), _table(result), *leaks]
    lines.append(Text.assemble(("Reward  ", "bold"), _reward_sentence(result["reward"])))
    if "by_level" in result:
        lines.append(
            Text.assemble(
                ("Unavoidable  ", "bold"),
                "Levels 1 to 3 cut a square of 20 to 100 % of the area out of a photo. Where that loses the roadwork, "
                "no model can be right, so the best MCC there is below 1.",
            )
        )
    return Group(*lines)


def _table(result: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("level")
    for header in ("pictures", "errors", "MCC"):
        table.add_column(header, justify="right")
    table.add_column("95 % interval", justify="center")
    for row in result.get("by_level", []):
        table.add_row(f"{row['level']} {_LEVELS[row['level']]}", *_cells(row, row["errors"]))
    errors = result["confusion"]["fp"] + result["confusion"]["fn"]
    table.add_row("all", *_cells(result, errors), style="bold")
    return table


def _cells(row: dict[str, Any], errors: int) -> tuple[str, str, str, str]:
    mcc, interval = "-", "-"
    if row["mcc"] is not None:
        mcc, interval = f"{row['mcc']:.4f}", f"{row['mcc_low']:.4f} to {row['mcc_high']:.4f}"
    return f"{row['n']:,}", f"{errors:,}", mcc, interval


def _reward_sentence(reward: dict[str, Any] | None) -> str:
    if reward is None:
        return "None can be simulated: the set holds one class only, and the validator draws both."
    return (
        f"{reward['mean']:.3f} on average, {reward['low']:.3f} in the 5th percentile, over {reward['windows']:,} "
        f"simulated windows of {MCC_ANSWERS} answers, labels drawn 50/50."
    )
