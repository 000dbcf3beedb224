"""The model cards: README.md for the hub, model_card.json for StreetVision.

README.md follows https://github.com/huggingface/hub-docs/blob/main/modelcard.md; huggingface_hub reads it back.

model_card.json has the fields of docs/Mining.md and natix/utils/model_format.py in
github.com/natixnetwork/streetvision-subnet. Required are model_name, description, version (X.Y.Z), submitted_by (the
wallet's hotkey) and submission_time (Unix seconds, not in the future); architecture and notes are optional. The
validator accepts each name only once, so the name contains a hash of the weights. It also rejects a hotkey other than
the miner's, so the user must fill in the hotkey.
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
    "<!-- Add `license: ...` to the metadata above (https://huggingface.co/docs/hub/repositories-licenses). -->\n"
    "No licence has been chosen for this model yet."
)
_OWN = "own"  # a network that transformers alone does not know
_USE = {
    "hf": """\
With transformers:

```python
from transformers import pipeline

classify = pipeline("image-classification", model="FOLDER_OR_HUB_NAME")
classify("photo.jpg")  # the label with the higher score is the calibrated decision
```

The decision threshold is part of the weights, so always decide at a score of 0.5.

""",
    _OWN: "This network needs the `roadwork` package, because transformers has no class for it.\n\n",
    "onnx": """\
`model.onnx` maps `pixel_values` (batch, 3, size, size), prepared as in `preprocessor_config.json`, to `logits`
(batch, 2) for `None` and `Roadwork`. The decision threshold is part of the weights: the larger logit is the calibrated
decision.

""",
}
_USE_OURS = """\
With the `roadwork` package (`pip install roadwork-vision`), which returns calibrated probabilities and can abstain.
`FOLDER` is a local copy of this repository.

```python
from roadwork import Detector

detector = Detector.load("FOLDER")
detector("photo.jpg")  # Prediction(label='Roadwork', probability=0.93, abstain=False)
```
"""
HOTKEY_PLACEHOLDER = "<WALLET_HOTKEY_ADDRESS>"
FIRST_VERSION = "1.0.0"


def build_card(name: str, network: PreTrainedModel, facts: ExportFacts | None, run: RunFacts, form: str) -> str:
    """The text of README.md.

    Args:
        name: name of the model.
        network: the exported network.
        facts: its calibration; None if it is not calibrated.
        run: facts of its run.
        form: `hf` or `onnx`.

    Raises:
        WiringError: huggingface_hub reads other metrics from the card than were written.
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
        "## How to use",
        _USE[use] + _USE_OURS,
        "## Intended use and limitations",
        _limits(run),
        "## Evaluation",
        _evaluation(run),
        "## Calibration",
        _calibration(facts, run.across),
        "## Training data",
        _data(run),
        "## Licence",
        LICENCE_HINT + _inherited(run),
    )
    content = f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(part.strip() for part in parts) + "\n"
    read = ModelCard(content).data
    if not isinstance(read, ModelCardData) or (read.eval_results or []) != results:
        raise WiringError(
            "huggingface_hub reads other metrics from the model card than were written. Please report it."
        )
    return content


def _describe(network: PreTrainedModel, run: RunFacts) -> str:
    size = run.settings.data.img_size
    adapters = dict.fromkeys(each.training.adapter for each in run.networks if each.training.adapter != "none")
    trained = f"{' and '.join(adapters)} adapter, merged into the network" if adapters else "all"
    if all(each.training.freeze_backbone for each in run.networks):
        trained = "classification head only"
    facts = {
        "Labels": "`None`, `Roadwork`",
        "Architecture": f"{family_of(network.config)}, {network.num_parameters():,} parameters",
        "Ensemble": f"mean of the logits of {len(run.networks)} networks" if len(run.networks) > 1 else "",
        "Base model": ", ".join(run.base_models),
        "Trained weights": trained,
        "Input": f"RGB photos, resized to {size}x{size} pixels without keeping the aspect ratio",
    }
    lines = "\n".join(f"- {name}: {value}" for name, value in facts.items() if value)
    return f"This image classifier predicts whether a street photo shows roadwork.\n\n{lines}"


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


def _evaluation(run: RunFacts) -> str:
    result = run.result
    if result is None:
        return "This model was never evaluated, so its accuracy is unknown. `roadwork evaluate RUN` measures it."
    rows = [
        f"| {shown} | {result[key]:.4f} | {_interval(result, key, '{} to {}') or '-'} |"
        for key, (shown, _) in FIGURES.items()
        if result[key] is not None
    ]
    table = "\n".join(["| metric | value | 95 % interval |", "|---|---|---|", *rows])
    leaks = "".join(f"\n\n**Leak:** {leak}" for leak in result.get("leaks", []))
    openings = result.get("openings", 1)
    return (
        f"The test split `{TEST_SPLIT}` has {result['n']:,} photos in {result['groups']:,} groups (photos of one place "
        f"or sequence). None of them was used for training or calibration. The decision threshold was "
        f"{run.result_threshold:.4g}.\n\n{table}\n\nIntervals: {result['method']}. The labels of `{TEST_SPLIT}` were "
        f"opened {openings} {'time' if openings == 1 else 'times'} for this run.\n\n"
        f"{result['target']['sentence']}{leaks}"
    )


def _calibration(facts: ExportFacts | None, across: str) -> str:
    if facts is None:
        return "Not calibrated (temperature 1, threshold 0.5). Do not interpret the scores as probabilities."
    band = "`Detector` never abstains."
    if facts.abstain_low is not None:
        band = f"`Detector` abstains if it is between {facts.abstain_low:.4f} and {facts.abstain_high:.4f}."
    return (
        f"The temperature ({facts.temperature:.6g}) and the decision threshold ({facts.threshold:.6g}) are folded into "
        f"the classification head. They were chosen for a prior of {facts.prior:.4g} (share of Roadwork photos). The "
        "softmax score of `Roadwork` is above 0.5 if and only if the calibrated probability is above the threshold. "
        f"`Detector` returns the calibrated probability. {band}" + (f"\n\n{across}" if across else "")
    )


def _data(run: RunFacts) -> str:
    sizes = ", ".join(f"{name} {count:,}" for name, count in run.split_sizes.items())
    facts = {
        "Dataset": run.data.name,
        "Photos by split": sizes or "unknown",
        "Splitting strategy": run.settings.data.splitting.strategy,
        "Fingerprint": f"`{run.fingerprint}`" if run.fingerprint else "",
    }
    return "\n".join(f"- {name}: {value}" for name, value in facts.items() if value)


def _limits(run: RunFacts) -> str:
    drawings = "- **This model was trained on drawings, not on photos. It is only a demo: do not deploy it.**\n"
    return (
        (drawings if run.data.is_synthetic else "")
        + """\
- Intended use: finding roadwork in street-level photos. Confirm costly decisions with a person or a second photo.
- Out of scope: the safety of vehicles or workers, and the surveillance of people.
- The evaluation applies to photos like those of the test split. In other regions the metrics can be lower, and the
  probabilities are no longer calibrated.
- Where roadwork is rarer than in the test split, a larger share of the detections is false. Recalibrate for the
  expected share with `roadwork calibrate RUN --prior SHARE`.
"""
    )


def _inherited(run: RunFacts) -> str:
    sources = [name for name in (*run.base_models, run.data.hub_name) if name]
    return f" The licences of {' and '.join(sources)} also apply." if sources else ""


def build_natix_card(name: str, architecture: str, run: RunFacts) -> dict[str, Any]:
    """The content of model_card.json.

    Args:
        name: name of the model.
        architecture: class of the network.
        run: facts of its run.
    """
    result = run.result
    notes = "Never evaluated."
    if result is not None and result["mcc"] is not None:
        bounds = _interval(result, "mcc", " (95 % interval {} to {})")
        notes = f"MCC {result['mcc']:.4f}{bounds} on {result['n']:,} photos of {TEST_SPLIT}, {run.data.name}."
    return {
        "model_name": name,
        "description": "Detects roadwork in street photos: a score of the label Roadwork above 0.5 is a detection.",
        "version": FIRST_VERSION,
        "submitted_by": HOTKEY_PLACEHOLDER,
        "submission_time": int(time.time()),
        "architecture": architecture,
        "notes": notes,
    }
