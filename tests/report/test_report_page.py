"""The page: complete, self-contained, safe against injected code, and clear about missing parts."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from fixtures.report_runs import HOSTILE, copy_run, make_hostile, random_logits, rewrite

from roadwork.core.errors import ConfigError, DataError
from roadwork.core.files import write_json
from roadwork.report.report import write_report


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.loads, self.text = [], set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "a":
            self.loads += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "poster")]

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def made_run(tiny_run, tmp_path_factory):
    run = rewrite(copy_run(tiny_run, tmp_path_factory.mktemp("made") / "run"), random_logits)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["wiring"] = [{"wire": "sampler", "observed": "a WeightedSampler", "works": True, "fix": "none"}]
    write_json(run / "manifest.json", manifest)
    return run


@pytest.fixture
def run(made_run, tmp_path):
    return copy_run(made_run, tmp_path / "run")


def report(run, *overrides):
    return write_report([run], overrides).read_text(encoding="utf-8")


def words(page):
    return " ".join(" ".join(Page(page).text).split())


def test_all_sections_are_present_in_order(run):
    page = report(run)
    ids = re.findall(r'<section id="(\w+)">', page)
    assert ids == [
        "headline",
        "learning",
        "decisions",
        "calibration",
        "slicing",
        "errors",
        "dataset",
        "setup",
        "reward",
    ]
    assert 'class="missing"' not in page
    result = json.loads((run / "results.json").read_text())["val_test_calibrated"]
    calibration = json.loads((run / "calibration.json").read_text())
    text = words(page)
    for expected in (
        f"{result['mcc']:.4f}", f"{result['mcc_low']:.4f} to {result['mcc_high']:.4f}", result["target"]["sentence"],
        f"AUROC {result['auroc']:.4f}", f"AUPRC {result['auprc']:.4f}", calibration["abstain"]["sentence"],
        calibration["threshold_fit"]["sentence"], f"{calibration['temperature_fit']['before']['nll']:.4f}",
        "Missed roadwork", "False alarms", "WeightedSampler", "Mean reward",
    ):  # fmt: skip
        assert expected in text, expected
    assert page.count("<title>") > 10  # charts have titles
    assert re.search(r"\d epochs in", text)


def test_page_has_no_scripts_and_no_requests(run):
    page = report(run)
    parsed = Page(page)
    assert all(value.startswith("data:image/jpeg;base64,") for value in parsed.loads)
    assert parsed.loads
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(parsed.tags)
    assert not any(name.startswith("on") or name == "style" for name in parsed.attributes)
    assert "http" not in re.sub(r"http-equiv", "", page)
    assert re.findall(r"url\(|@import", page) == []


def test_page_policy_allows_only_its_own_style(run):
    page = report(run)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.replace("&#39;", "'").split("; ")[:3] == [
        "default-src 'none'", "img-src data:", f"style-src 'sha256-{digest}'"
    ]  # fmt: skip


def test_names_and_values_are_escaped(run, tmp_path):
    benign = Page(report(run))
    hostile = Page(report(make_hostile(copy_run(run, tmp_path / "hostile"))))
    # Other data changes the number of tags, but adds no kind of tag or attribute.
    assert set(hostile.tags) <= set(benign.tags)
    assert hostile.attributes <= benign.attributes
    text = "".join(hostile.text)
    for name in HOSTILE:
        assert name in text


def test_trained_run_names_the_next_command(run):
    for name in ("predictions.parquet", "results.json", "calibration.json"):
        (run / name).unlink()
    text = words(report(run))
    assert text.count("roadwork evaluate RUN") >= 4
    assert "roadwork calibrate RUN" in text
    assert "Learning curves" in text
    assert "epochs in" in text


def test_run_with_only_a_configuration_has_a_page(run):
    for path in run.iterdir():
        if path.name != "config.yaml":
            path.unlink()
    assert "metrics.jsonl has no epochs" in words(report(run))


@pytest.mark.parametrize(("select", "epoch", "mcc"), [("best", "Epoch 1", "0.9000"), ("last", "last epoch", "0.4000")])
def test_the_selected_epoch_is_named_with_its_mcc(run, select, epoch, mcc):
    epochs = [{"epoch": number, "val_select/mcc": value} for number, value in enumerate([0.9, 0.5, 0.4])]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, epochs)))
    section = words(report(run, f"training.select={select}").split('<section id="learning">')[1].split("</section>")[0])
    assert f"{epoch} was selected" in section
    assert mcc in section


def test_threshold_is_half_without_calibration(run):
    (run / "calibration.json").unlink()
    text = words(report(run))
    assert "Not calibrated" in text
    mcc = json.loads((run / "results.json").read_text())["val_test"]["mcc"]
    assert f"{mcc:.4f}" in text


def test_calibration_of_other_predictions_is_excluded(run):
    calibration = json.loads((run / "calibration.json").read_text())
    write_json(run / "calibration.json", calibration | {"sha256_of_rows": "0"})
    assert "calibration.json was fitted on other predictions" in words(report(run))


def test_results_of_another_evaluation_are_flagged(run):
    results = json.loads((run / "results.json").read_text())
    for result in results.values():
        result["confusion"]["tp"] += 1
    write_json(run / "results.json", results)
    assert "different evaluations" in words(report(run))


def test_leaks_are_shown_as_warnings(run):
    results = json.loads((run / "results.json").read_text())
    results["val_test_calibrated"]["leaks"] = ["3 photos are also in train."]
    write_json(run / "results.json", results)
    assert '<p class="warning">Leak: 3 photos are also in train.</p>' in report(run)


def test_errors_without_photos_keep_their_facts(run):
    page = report(run, "data.root=/nowhere")
    assert "Photo not found" in page
    assert "/nowhere does not exist" in words(page)
    assert "Missed roadwork" in page


def test_one_missing_photo_does_not_hide_the_others(run, demo_root, tmp_path):
    import shutil

    copied = tmp_path / "data"
    shutil.copytree(demo_root, copied)
    whole = report(run, f"data.root={copied}")
    first = re.search(r'<img alt="([^"]+)"', whole)[1]
    (copied / first).unlink()
    page = report(run, f"data.root={copied}")
    assert page.count("Photo not found") == 1
    assert page.count("<img") == whole.count("<img") - 1


def test_coarse_report_hides_positions_and_names(run):
    plain, coarse = report(run), report(run, "privacy.coarsen_gps=0", "privacy.blur=5")
    name = re.search(r'<img alt="([^"]+)"', plain)[1]
    assert name not in coarse
    assert "blurred, by 5 %" in words(coarse)
    assert not re.search(r"\d+\.\d{4,}°", coarse)
    pictures = [re.findall(r"base64,([\w+/=]+)", page) for page in (plain, coarse)]
    assert len(pictures[0]) == len(pictures[1])
    assert not set(pictures[0]) & set(pictures[1])


def test_profile_results_are_shown_by_level(run):
    results = json.loads((run / "results.json").read_text())
    level = {"n": 40, "groups": 20, "errors": 3, "mcc": 0.8123, "mcc_low": 0.7, "mcc_high": 0.9}
    profile = results["val_test"] | {
        "by_level": [level | {"level": number} for number in range(4)],
        "reward": {"mean": 0.654, "low": 0.321, "windows": 2000},
    }
    write_json(run / "results.json", results | {"val_test_streetvision-2026-01": profile})
    text = words(report(run))
    assert "streetvision-2026-01" in text
    assert text.count("0.8123") == 4
    assert "0.654" in text
    assert "0.321" in text


def test_damaged_line_of_the_metrics_is_skipped(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 7, "lr": NaN, "val_select/mcc": 0.5}\n{"epoch": 8, "tr')
    assert "2 epochs in" in words(report(run))


def test_damaged_files_and_repeated_runs_are_rejected(run):
    with pytest.raises(ConfigError, match="2 runs"):
        write_report([run, run])
    (run / "results.json").write_text("{")
    with pytest.raises(DataError, match=r"results\.json.*JSON"):
        write_report([run])


def test_a_size_experiment_of_the_same_name_is_shown(run):
    assert 'id="size"' not in report(run)
    folder = run.parent / "size/latest"
    folder.mkdir(parents=True)
    size = {"photos": 120.0, "mcc": 0.8125, "low": 0.7, "high": 0.9}
    shown = {"command": HOSTILE[0], "rows": 864, "groups": 209, "sizes": [size], "sentences": ["About 14,000 photos."]}
    write_json(folder / "size.json", shown)
    (folder / "size.svg").write_text("<svg/>")
    page = report(run)
    assert {"0.8125", "864", "14,000"} <= set(words(page).replace(",</", "").split())
    assert f"data:image/svg+xml;base64,{base64.b64encode(b'<svg/>').decode()}" in Page(page).loads
    assert "script" not in Page(page).tags
