"""What the experiment on GPS weighting allows to be said, by a rule fixed in advance."""

from __future__ import annotations

from typing import Any

from roadwork.experiments.arms import ARMS, GPS, PLACEBO, UNIFORM
from roadwork.experiments.gps_analysis import PRIMARY

GAIN, HARM = "GPS weighting helps here", "GPS weighting harms here"
NO_EVIDENCE = "no evidence that GPS weighting helps here"
# A bootstrap redraws only the differences that it has seen, so of a handful it says too much.
MIN_DIFFERING_GROUPS = 10


def decide_verdict(figures: dict[str, Any]) -> dict[str, Any]:
    """The verdict on the `gps` arm: its claim, the reasons in words, and remarks on the others, which claim nothing.

    A gain is claimed where the primary endpoint of `gps` is above both `uniform` and `placebo` with the whole 95 %
    interval of the difference above 0, and each differs in ten or more effective groups; a harm where both are below.

    Args:
        figures: as `analyse` gives them.
    """
    against = figures["differences"][GPS]
    differences = [against[other][PRIMARY] for other in (UNIFORM, PLACEBO)]
    enough = all(against[other]["differing_groups"] >= MIN_DIFFERING_GROUPS for other in (UNIFORM, PLACEBO))
    claim = NO_EVIDENCE
    if enough and all(difference["low"] > 0 for difference in differences):
        claim = GAIN
    elif enough and all(difference["high"] < 0 for difference in differences):
        claim = HARM
    reasons = [
        f"Deployment-weighted MCC of gps against {other}: {show_difference(against[other][PRIMARY])}."
        for other in (UNIFORM, PLACEBO)
    ]
    smallest = max((difference["high"] - difference["low"]) / 2 for difference in differences)
    if claim == NO_EVIDENCE:
        reasons.append(_say_what_could_be_seen(figures, smallest, enough))
    return {
        "claim": claim,
        "reasons": reasons,
        "smallest_effect": smallest,
        "remarks": _remark_on_others(figures["differences"]),
    }


def show_difference(difference: dict[str, Any]) -> str:
    """A difference with its interval, such as `+0.012 (95 % -0.004 to +0.027)`."""
    return f"{difference['value']:+.3f} (95 % {difference['low']:+.3f} to {difference['high']:+.3f})"


def _say_what_could_be_seen(figures: dict[str, Any], smallest: float, enough: bool) -> str:
    weights = {bracket["weight"] for bracket in figures["brackets"] if bracket["rows"]}
    if len(weights) == 1:
        return (
            "All rows lie in brackets of one weight, so weighting changes nothing: the question cannot be asked here."
        )
    if not enough:
        return (
            f"The arms decide differently in fewer than {MIN_DIFFERING_GROUPS} effective groups: "
            "too few for an interval that could be trusted."
        )
    return (
        f"The smallest effect that this data could have shown is about {smallest:.3f} (half the wider interval): "
        "that of a smaller one stays unknown."
    )


def _remark_on_others(differences: dict[str, Any]) -> list[str]:
    seen = [
        f"{arm} against uniform: {show_difference(differences[arm][UNIFORM][PRIMARY])}"
        for arm in ARMS
        if arm not in (UNIFORM, GPS)
        and (differences[arm][UNIFORM][PRIMARY]["low"] > 0 or differences[arm][UNIFORM][PRIMARY]["high"] < 0)
    ]
    if not seen:
        return ["No other arm differs from uniform by more than its interval."]
    return [*(f"{text}." for text in seen), "These are not claims: of several comparisons, some stand out by chance."]
