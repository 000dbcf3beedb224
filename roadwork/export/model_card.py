"""The model cards: README.md for the hub, model_card.json for StreetVision.

The form is https://github.com/huggingface/hub-docs/blob/main/modelcard.md, written and read back by huggingface_hub.

The fields are those of docs/Mining.md and natix/utils/model_format.py in github.com/natixnetwork/streetvision-subnet:
model_name, description, version (X.Y.Z), submitted_by (the wallet's hotkey) and submission_time (Unix seconds, not in
the future) are required of a miner, architecture and notes are optional. The validator refuses a hotkey that is not the
miner's and takes the name once, so the name carries the weights' hash, and the hotkey is left for the user to fill in.
"""

from __future__ import annotations

import time
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel

from roadwork.core.errors import WiringError
from roadwork.detector.format import ExportFacts
from roadwork.export.run_facts import RunFacts
from roadwork.models.architecture import needs_roadwork
from roadwork.models.classifier import family_of
from roadwork.settings.sampling import TEST_SPLIT

FIGURES = {"mcc": ("MCC", "matthews_correlation"), "accuracy": ("Accuracy", "accuracy"),
           "precision": ("Precision", "precision"), "recall": ("Recall", "recall"), "f1": ("F1", "f1")}  # fmt: skip
LICENCE_HINT = (
    "<!-- Add your licence: a line `license: ...` above (https://huggingface.co/docs/hub/repositories-licenses). -->"
)
_OWN = "own"  # a network that transformers alone does not know
_USE = {
    "hf": """\
```python
from transformers import pipeline
pipeline("image-classification", model="DIR", top_k=None)("photo.jpg")  # decide at 0.5, whatever the threshold was
```
""",
    _OWN: "transformers alone does not know this network, so its pipeline cannot load it; `roadwork` can.\n",
    "onnx": """\
`model.onnx` maps `pixel_values` (B, 3, S, S), made as preprocessor_config.json says, to `logits` (B, 2).
""",
}
_USE_OURS = """
```python
from roadwork import Detector
Detector.load("DIR")("photo.jpg")  # Prediction(label, probability, abstain), the probability calibrated
```
"""
HOTKEY_PLACEHOLDER = "<WALLET_HOTKEY_ADDRESS>"
FIRST_VERSION = "1.0.0"


def build_card(name: str, network: PreTrainedModel, facts: ExportFacts | None, run: RunFacts, form: str) -> str:
    """The text of README.md.

    Args:
        name: of the model.
        network: that is exported.
        facts: its calibration; None where it has none.
        run: what is known of its run.
        form: `hf` or `onnx`.

    Raises:
        WiringError: huggingface_hub does not read from it what was written.
    """
    results = _eval_results(run)
    use = _OWN if form == "hf" and needs_roadwork(network.config.model_type) else form
    data = ModelCardData(
        library_name={"hf": "transformers", _OWN: "roadwork", "onnx": "onnx"}[use],
        pipeline_tag="image-classification",
        tags=["roadwork", "street-imagery", network.config.model_type],
        datasets=[run.data.hub_name] if run.data.hub_name else None,
        base_model=[*run.base_models] or None,
        metrics=["matthews_correlation"],
        model_name=name,
        eval_results=results or None,
    )
    parts = (
        f"# {name}",
        _describe(network, run),
        "## Figures",
        _figures(run),
        "## Use",
        _USE[use] + _USE_OURS,
        "## Calibration",
        _calibration(facts),
        "## Data",
        _data(run),
        "## Intended use and limits",
        _limits(run),
        "## Licence",
        LICENCE_HINT + "\nNot stated by whoever exported this." + _inherited(run),
    )
    content = f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(part.strip() for part in parts) + "\n"
    read = ModelCard(content).data
    if not isinstance(read, ModelCardData) or (read.eval_results or []) != results:
        raise WiringError("The model card's figures were not read back as they were written. Please report this.")
    return content


def _describe(network: PreTrainedModel, run: RunFacts) -> str:
    size = run.settings.data.img_size
    origin = f", from {' and '.join(run.base_models)}" if run.base_models else ""
    adapters = dict.fromkeys(each.training.adapter for each in run.networks if each.training.adapter != "none")
    how = f" It was trained with {' and '.join(adapters)}, merged into its weights." if adapters else ""
    if all(each.training.freeze_backbone for each in run.networks):
        how += " Its head alone was trained."
    if len(run.networks) > 1:
        how = f" Its logits are the mean of {len(run.networks)} networks'.{how}"
    return (
        f"Says of a street photo whether it shows roadwork: `Roadwork` or `None`. A {family_of(network.config)}{origin}"
        f", {network.num_parameters():,} parameters, for pictures squashed to {size}x{size} pixels.{how}"
    )


def _eval_results(run: RunFacts) -> list[EvalResult]:
    result = run.result
    if result is None:
        return []
    return [
        EvalResult(
            task_type="image-classification",
            task_name="Roadwork in street photos",
            dataset_type=run.data.hub_name or "roadwork-local",
            dataset_name=run.data.name,
            dataset_split=TEST_SPLIT,
            dataset_args={"n": result["n"], "groups": result["groups"]},
            metric_type=metric,
            metric_value=result[key],
            metric_name=f"{shown}{_interval(result, key, ' (95 % interval {} to {})')}",
            metric_args={"threshold": run.result_threshold} | _bounds(result, key),
        )
        for key, (shown, metric) in FIGURES.items()
        if result[key] is not None
    ]


def _bounds(result: dict[str, Any], key: str) -> dict[str, Any]:
    low, high = result[f"{key}_low"], result[f"{key}_high"]
    return {} if low is None else {"confidence_level": 0.95, "low": low, "high": high}


def _interval(result: dict[str, Any], key: str, form: str) -> str:
    low, high = result[f"{key}_low"], result[f"{key}_high"]
    return "" if low is None else form.format(f"{low:.4f}", f"{high:.4f}")


def _figures(run: RunFacts) -> str:
    result = run.result
    if result is None:
        return (
            "This run was never evaluated, so nothing is known of how good it is. `roadwork evaluate RUN` measures it."
        )
    rows = [
        f"| {shown} | {result[key]:.4f} | {_interval(result, key, '{} to {}') or '-'} |"
        for key, (shown, _) in FIGURES.items()
        if result[key] is not None
    ]
    table = "\n".join(["| figure | value | 95 % interval |", "|---|---|---|", *rows])
    leaks = "".join(f"\n\n**Leak:** {leak}" for leak in result.get("leaks", []))
    return (
        f"On {TEST_SPLIT}, {result['n']:,} photos in {result['groups']:,} groups that were never trained or calibrated "
        f"on, decided at {run.result_threshold:.4g}. Intervals: {result['method']}. {TEST_SPLIT} had been opened "
        f"{result.get('openings', 1)} times by then.\n\n{table}\n\nVerdict: {result['target']['sentence']}{leaks}"
    )


def _calibration(facts: ExportFacts | None) -> str:
    if facts is None:
        return "Not calibrated: temperature 1, threshold 0.5. Its scores are no probabilities to be relied on."
    band = "Every photo is answered."
    if facts.abstain_low is not None:
        band = f"`Detector` abstains between {facts.abstain_low:.4f} and {facts.abstain_high:.4f}."
    return (
        f"Temperature {facts.temperature:.6g} and threshold {facts.threshold:.6g} are folded into the head, for a "
        f"share of Roadwork of {facts.prior:.4g}. So softmax is above 0.5 exactly where the calibrated probability is "
        f"above the threshold; `Detector` gives that probability itself. {band}"
    )


def _data(run: RunFacts) -> str:
    sizes = ", ".join(f"{name} {count:,}" for name, count in run.split_sizes.items())
    fingerprint = f" Fingerprint of the data: `{run.fingerprint}`." if run.fingerprint else ""
    return (
        f"{run.data.name[0].upper()}{run.data.name[1:]}. Photos by split: {sizes or 'unknown'}; "
        f"strategy: {run.settings.data.splitting.strategy}.{fingerprint}"
    )


def _limits(run: RunFacts) -> str:
    drawings = "- **It was trained on drawings, to try roadwork out, and not on photographs: do not deploy it.**\n"
    return (
        (drawings if run.data.is_synthetic else "")
        + """\
- For finding roadwork in street-level photos, with a person or a second photo behind each decision that costs.
- Not for the safety of vehicles or workers, and not for watching people.
- The figures hold for photos like those it was tested on. Elsewhere on the map they can be lower, and the calibration
  no longer holds.
- Where roadwork is rarer than in the figures above, more of its alarms are false: calibrate with `--prior`.
"""
    )


def _inherited(run: RunFacts) -> str:
    sources = [name for name in (*run.base_models, run.data.hub_name) if name]
    return f" Mind the licences of {' and '.join(sources)}." if sources else ""


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
