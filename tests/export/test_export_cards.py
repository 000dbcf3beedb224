import json
import re
import shutil
import time

import yaml
from fixtures.untrained_runs import make_untrained_run
from huggingface_hub import ModelCard

from roadwork.export.export import export_run


def read_card(folder):
    return ModelCard.load(folder / "README.md"), json.loads((folder / "model_card.json").read_text())


def test_model_index_has_the_calibrated_metrics(tiny_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    results = json.loads((run / "results.json").read_text())
    results["val_test"]["mcc"] = -0.99  # at threshold 0.5, which is not exported
    results["val_test_calibrated"] |= {"mcc": 0.75, "mcc_low": 0.5, "mcc_high": 0.875}
    (run / "results.json").write_text(json.dumps(results))
    export_run(run, tmp_path / "out", format="hf")
    card, natix = read_card(tmp_path / "out")
    mcc = next(result for result in card.data.eval_results if result.metric_type == "matthews_correlation")
    threshold = json.loads((run / "calibration.json").read_text())["threshold"]
    assert mcc.metric_value == 0.75
    assert mcc.metric_args == {"threshold": threshold, "confidence_level": 0.95, "low": 0.5, "high": 0.875}
    assert mcc.dataset_split == "val_test"
    expected = results["val_test_calibrated"]
    assert mcc.dataset_args == {"n": expected["n"], "groups": expected["groups"]}
    assert "| MCC | 0.7500 | 0.5000 to 0.8750 |" in card.text
    assert expected["target"]["sentence"] in card.text
    assert "trained on drawings" in card.text
    assert "0.7500 (95 % interval 0.5000 to 0.8750)" in natix["notes"]
    # The hub's own format, without a licence that nobody chose.
    front = yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---")[1])
    assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.75
    assert "license" not in front
    splits = json.loads((run / "splits.json").read_text())["splits"]
    assert f"train {len(splits['train']):,}" in card.text


def test_card_says_how_the_threshold_does_in_unseen_regions(tiny_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    calibration = json.loads((run / "calibration.json").read_text())
    sentence = "Across city: in 7 unseen regions, a threshold from the other regions helps."
    (run / "calibration.json").write_text(json.dumps(calibration | {"across": {"sentence": sentence}}))
    export_run(run, tmp_path / "out", format="hf")
    assert sentence in read_card(tmp_path / "out")[0].text


def test_card_of_an_unevaluated_run_has_no_metrics(tmp_path):
    run = make_untrained_run(tmp_path / "run")
    export_run(run, tmp_path / "out", format="hf")
    card, natix = read_card(tmp_path / "out")
    assert card.data.eval_results is None
    assert card.data.library_name == "transformers"
    assert "never evaluated" in card.text
    assert "Not calibrated" in card.text
    assert natix["notes"] == "Never evaluated."


def test_natix_card_has_the_required_fields(tmp_path):
    """natix/utils/model_format.py and the model check script require these keys, and a time between 2000 and now."""
    run = make_untrained_run(tmp_path / "run")
    export_run(run, tmp_path / "out", format="hf")
    card, natix = read_card(tmp_path / "out")
    assert {"model_name", "description", "version", "submitted_by", "submission_time"} <= set(natix)
    assert re.fullmatch(r"\d+\.\d+\.\d+", natix["version"])
    assert 946684800 <= int(natix["submission_time"]) <= time.time()
    assert f"# {natix['model_name']}\n" in card.text
    assert natix["architecture"] == "ResNetForImageClassification"


def test_card_names_hub_datasets_but_no_folders(tmp_path):
    hub = make_untrained_run(
        tmp_path / "hub", "resnet", "none", "data.mode=huggingface", "data.hub.name=natix-network-org/roadwork"
    )
    export_run(hub, tmp_path / "out", format="hf")
    card, _ = read_card(tmp_path / "out")
    assert card.data.datasets == ["natix-network-org/roadwork"]
    folder = make_untrained_run(
        tmp_path / "folder", "resnet", "none", "data.mode=huggingface", f"data.hub.name={tmp_path}"
    )
    export_run(folder, tmp_path / "out2", format="hf")
    card, _ = read_card(tmp_path / "out2")
    assert card.data.datasets is None
    assert str(tmp_path) not in str(card)
