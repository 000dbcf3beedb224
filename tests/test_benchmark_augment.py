import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

CHECKOUT = Path(__file__).resolve().parents[1]
SIZE = 32


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.syspath_prepend(str(CHECKOUT))


def names(cases):
    return [case.name for case in cases]


def test_every_operation_and_stage_has_a_case():
    from benchmarks.augment_cases import KORNIA_OPERATIONS, KORNIA_STAGES, MODES
    from roadwork.data.augmentation.build import AUGMENTATIONS
    from roadwork.data.augmentation.heavy_aug_kornia import CONDITIONS, STAGES
    from roadwork.data.augmentation.trivial_augment import OPERATIONS

    assert MODES.keys() == AUGMENTATIONS.keys() - {"none"}
    checks = ["check", "resize, clamp"]
    conditions = [condition.__name__ for condition in CONDITIONS]
    stages = [name for name in STAGES if name != "weather"] + conditions
    assert names(MODES["heavy_kornia"](SIZE)) == [*checks, "viewpoint", *stages, "whole"]
    mixing = ["CutMix", "MixUp", "TrivialAugment", "whole"]
    assert names(MODES["latest_2025"](SIZE)) == [*checks, "flip", *OPERATIONS, *mixing]
    assert KORNIA_OPERATIONS.keys() == OPERATIONS.keys()
    assert KORNIA_STAGES.keys() == set(stages)


def test_parts_happen_as_often_as_the_modes_draw_them():
    from benchmarks.augment_cases import heavy_kornia, latest_2025

    latest = {case.name: case for case in latest_2025(SIZE)}
    assert (latest["Rotate"].share, latest["Rotate"].rows(28)) == (1 / 14, 10)  # five are sampled together
    assert (latest["Color"].share, latest["Color"].rows(28), latest["Color"].rows(2)) == (1 / 14, 2, 1)
    assert (latest["CutMix"].share, latest["flip"].rows(28)) == (0.5, 14)
    assert latest["whole"].share is latest["TrivialAugment"].share is None
    heavy = {case.name: case for case in heavy_kornia(SIZE)}
    assert (heavy["rain"].share, heavy["viewpoint"].share, heavy["blur"].rows(30)) == (0.1, 1.0, 6)


@pytest.mark.parametrize("mode", ["latest_2025", "heavy_kornia"])
def test_cases_change_the_stated_number_of_images(mode):
    from benchmarks.augment_cases import MODES

    torch.manual_seed(0)
    original = torch.randint(256, (20, 3, SIZE, SIZE)).float() / 255
    for case in MODES[mode](SIZE):
        if case.share is None or case.share == 1 or case.name in {"Identity", "CutMix", "MixUp"}:
            continue
        for change in (case.ours, *case.peers.values()):
            images = original.clone()
            change(images)
            changed = (images != original).flatten(1).any(1).sum().item()
            # One step of a magnitude may change nothing, and few drops may miss.
            assert case.rows(20) - 2 <= changed <= case.rows(20), case.name
            assert changed > 0 or case.rows(20) < 3, case.name


def test_shares_are_weighted_by_how_often_a_part_is_drawn():
    from benchmarks.augment import OURS, weighted_shares
    from benchmarks.augment_cases import Case
    from benchmarks.paired import compare

    cases = [Case("always", 1.0, abs), Case("rare", 0.25, abs), Case("whole", None, abs)]
    speeds = {"always": 200, "rare": 100, "whole": 50}
    lines = [line for name, speed in speeds.items() for line in compare(name, OURS, {OURS: [speed]})]
    lines.append(replace(lines[0], name="kornia", images_per_s=1))
    assert weighted_shares(cases, lines) == pytest.approx({"always": 5 / 7.5, "rare": 2.5 / 7.5})


def test_memory_is_the_most_that_is_held_at_once():
    from benchmarks.augment import peak_batches

    images = torch.zeros(4, 3, 64, 64)

    def hold(batches):
        return lambda images: [images.clone() for _ in range(batches)]

    assert peak_batches(hold(3), images) == pytest.approx(3, abs=0.1)
    assert peak_batches(lambda images: [hold(1)(images) and None for _ in range(3)], images) < 1.1


@pytest.mark.parametrize("mode", ["latest_2025", "heavy_kornia"])
def test_no_mode_holds_four_batches_its_input_included(mode):
    from benchmarks.augment import peak_batches
    from benchmarks.augment_cases import MODES

    images = torch.rand(32, 3, 96, 96)
    torch.manual_seed(0)
    whole = MODES[mode](96)[-1].ours
    whole(images)
    assert max(peak_batches(whole, images) for _ in range(4)) < 3


def test_the_command_prints_one_table_and_writes_json(tmp_path, capsys):
    from benchmarks.augment import main

    file = tmp_path / "augment.json"
    main(["--sizes", str(SIZE), "--batch", "4", "--repeat", "1", "--json", str(file)])
    content = json.loads(file.read_text())
    assert content["shares"].keys() == {f"{mode} {SIZE}" for mode in ("latest_2025", "heavy_kornia", "streetvision")}
    for shares in content["shares"].values():
        assert sum(shares.values()) == pytest.approx(1)
    lines = {(line["task"], line["name"]): line for line in content["lines"]}
    rotate = f"latest_2025 {SIZE}: Rotate"
    ratio = lines[rotate, "roadwork"]["images_per_s"] / lines[rotate, "kornia"]["images_per_s"]
    assert lines[rotate, "kornia"]["ours_ratio"] == pytest.approx(ratio)
    assert f"{content['shares'][f'latest_2025 {SIZE}']['Rotate']:.1%} of the mode" in lines[rotate, "roadwork"]["note"]
    assert {name for task, name in lines if task.endswith("TrivialAugment")} == {
        "roadwork", "kornia, one operation a batch", "ours, image by image",
    }  # fmt: skip
    assert "batches of memory" in lines[f"heavy_kornia {SIZE}: whole", "roadwork"]["note"]
    assert capsys.readouterr().out.count("Augmentation") >= 1
    assert str(sys.version_info.major) in content["machine"]


def test_numbers_below_one_are_refused(capsys):
    from benchmarks.augment import main

    with pytest.raises(SystemExit):
        main(["--batch", "0"])
    assert "1 or more" in capsys.readouterr().err
