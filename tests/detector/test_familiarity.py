"""The batch verdict, on features and photos with a planted truth."""

import csv
import json
import shutil
import sys
from dataclasses import replace
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from fixtures.detectors import ALL_NETWORKS, SIZE
from PIL import Image

from roadwork.cli import main
from roadwork.core.errors import DataError
from roadwork.detector import two_sample
from roadwork.detector.detector import Detector
from roadwork.detector.discovery import find_photos
from roadwork.detector.familiarity import (
    FACTS,
    FAMILIAR,
    REFERENCE_FILE,
    UNFAMILIAR,
    UNKNOWN,
    Familiarity,
    Reference,
    coarse_places,
    compare_facts,
    count_hours,
    judge,
    labels_needed,
    local_hour,
    photo_facts,
)
from roadwork.detector.predict import InterruptedPredictionError, PredictOptions, predict_to_file
from roadwork.detector.two_sample import auc_of, critical_value, draw_groups, null_distribution
from roadwork.models.build import build_model
from roadwork.models.ensemble import EnsembleForImageClassification
from roadwork.models.head import logits_and_features, penultimate, without_head
from roadwork.settings import ModelSettings

DRIVES, FRAMES, DIMENSIONS = 40, 16, 24


def drive(rng, shift=0.0):
    """Features of a drive: frames around a point of its own."""
    return rng.normal(shift, 1, DIMENSIONS) + rng.normal(size=(FRAMES, DIMENSIONS))


@pytest.fixture(scope="module")
def drives():
    """A reference of whole drives."""
    rng = np.random.default_rng(0)
    features = np.concatenate([drive(rng) for _ in range(DRIVES)])
    groups = np.repeat(np.arange(DRIVES), FRAMES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(two_sample, "DRAWS", 60)
        patch.setattr(two_sample, "SIZES", (16,))
        sizes, null = null_distribution(features, groups, np.ones(len(groups), dtype=bool))
    return Reference(features, groups, np.ones((len(groups), len(FACTS))), sizes, null)


def verdicts(reference, batches):
    return [judge(reference, batch, np.ones((len(batch), len(FACTS)))).verdict for batch in batches]


def test_new_drives_are_flagged_in_5_percent_at_most(drives):
    rng = np.random.default_rng(1)
    found = verdicts(drives, [drive(rng) for _ in range(60)])
    assert found.count(UNFAMILIAR) <= 4  # of 60; more than 4 have a chance of 18 % at 5 %, and ours is lower
    assert set(found) <= {FAMILIAR, UNFAMILIAR}


def test_photos_from_many_drives_are_familiar(drives):
    rng = np.random.default_rng(2)
    found = verdicts(drives, [np.concatenate([drive(rng)[:2] for _ in range(8)]) for _ in range(20)])
    assert found.count(UNFAMILIAR) <= 1


def test_foreign_drives_are_flagged(drives):
    rng = np.random.default_rng(3)
    batches = [np.concatenate([drive(rng, shift=2)[:4] for _ in range(4)]) for _ in range(20)]
    assert verdicts(drives, batches).count(UNFAMILIAR) >= 19


def test_one_foreign_drive_is_flagged(drives):
    rng = np.random.default_rng(5)
    found = [judge(drives, drive(rng, shift=3), np.ones((FRAMES, len(FACTS)))) for _ in range(10)]
    assert [each.verdict for each in found] == [UNFAMILIAR] * 10
    # One familiar drive is separated perfectly, too.
    assert min(each.threshold for each in found) > 0.99
    assert auc_of(0) == 0.5


def test_shuffled_reference_changes_the_verdict(drives):
    batch = drive(np.random.default_rng(4))
    scales = np.geomspace(1, 100, DIMENSIONS)
    scaled = replace(drives, features=drives.features * scales + 10 * scales)
    shuffled = replace(scaled, features=scaled.features[:, ::-1])
    own = batch * scales + 10 * scales
    assert verdicts(scaled, [own]) == [FAMILIAR]
    assert verdicts(shuffled, [own]) == [UNFAMILIAR]


def test_rows_that_training_fitted_are_not_drawn(monkeypatch):
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 4)
    is_unseen = groups < 30
    drawn = []
    original = two_sample.draw_groups
    monkeypatch.setattr(
        two_sample, "draw_groups", lambda own, size, rng: drawn.extend(own.tolist()) or original(own, size, rng)
    )
    monkeypatch.setattr(two_sample, "separability", lambda *_: 0.5)
    sizes, null = null_distribution(rng.normal(size=(240, 8)), groups, is_unseen)
    assert set(drawn) == set(range(30))
    assert (len(sizes), null.shape[1]) == (len(null), two_sample.DRAWS)


def test_few_groups_give_no_null_distribution():
    groups = np.arange(two_sample.MIN_GROUPS - 1).repeat(50)
    sizes, _ = null_distribution(np.zeros((len(groups), 4)), groups, np.ones(len(groups), dtype=bool))
    assert len(sizes) == 0


def test_limit_is_interpolated_and_never_below_chance(drives):
    null = np.array([np.full(100, 2.0), np.full(100, 1.0), np.full(100, -1.0)])
    reference = replace(drives, sizes=np.array([8, 32, 64]), null=null)
    assert (reference.limit(8), reference.limit(16), reference.limit(64)) == (2.0, pytest.approx(1.5), 0.0)


def test_draws_take_whole_groups():
    groups = np.repeat(np.arange(20), 4)
    rows = draw_groups(groups, 16, np.random.default_rng(0))
    assert len(set(rows.tolist())) == 16
    assert (np.unique(groups[rows], return_counts=True)[1] == 4).all()


def test_critical_value_is_above_the_95th_percentile():
    values = np.random.default_rng(0).permutation(np.linspace(0, 1, 100))
    assert np.quantile(values, 0.95) < critical_value(values) < 1


@pytest.mark.parametrize(("photos", "labels"), [(10**9, 385), (100, 80), (1, 1)])
def test_number_of_labels_for_a_margin(photos, labels):
    assert labels_needed(photos) == labels


def test_facts_are_ordered_by_their_difference():
    training = np.tile([0.5, 0.1, 4 / 3, 640, 480], (50, 1))
    training[:, 0] += np.linspace(-0.2, 0.2, 50)
    batch = np.tile([0.55, 0.1, 16 / 9, 640, 360], (10, 1))
    found = compare_facts(batch, reference_of(training))
    assert [fact.name for fact in found[:3]] == ["aspect ratio", "height", "brightness"]
    assert (found[0].batch, found[0].training) == pytest.approx((16 / 9, 4 / 3))


def reference_of(facts, **more):
    return Reference(np.ones((len(facts), 2)), np.arange(len(facts)), facts, np.array([8]), np.zeros((1, 100)), **more)


def circumstances(hour=np.nan, latitude=np.nan, longitude=np.nan):
    """Facts of 10 photos that differ from training in these only."""
    return np.tile([1, 1, 1, 1, 1, hour, latitude, longitude], (10, 1))


@pytest.mark.parametrize(
    ("batch", "name", "share"),
    [
        (circumstances(hour=23), "night, 22 to 6", 1),
        (circumstances(hour=12), "night, 22 to 6", 0),  # half of the training photos are of the night
        (circumstances(latitude=30.0, longitude=31.2), "over 100 km from training photos", 1),
        (circumstances(latitude=52.6, longitude=-179.9), "over 100 km from training photos", 0),  # beyond the date line
        (circumstances(), None, None),
    ],
)
def test_hour_and_place_are_compared_where_known(batch, name, share):
    hours = count_hours(np.array([23.5, 3, 12, 15.9, np.nan] * 10))
    places = coarse_places(np.array([[52.5, 179.9], [np.nan, np.nan]]))
    reference = reference_of(np.ones((50, len(FACTS))), hours=hours, places=places)
    found = [fact for fact in compare_facts(batch, reference) if fact.is_share]
    assert [(fact.name, fact.batch) for fact in found] == ([(name, share)] if name else [])
    if share == 1:
        assert f"{name} 100%" in str(Familiarity(FAMILIAR, facts=compare_facts(batch, reference)).notable[0])
    no_places = compare_facts(batch, replace(reference.without_places(), hours=0 * hours))
    assert not [fact for fact in no_places if fact.is_share]


@pytest.mark.parametrize(
    ("captured_at", "longitude", "hour"),
    [
        ("2024-05-05T18:30:00", 139.7, 18.5),  # no zone: local
        ("2024-05-05T18:30:00Z", -90.0, 12.5),
        ("2024-05-05T01:00:00+09:00", 135.0, 1.0),
        ("2024-05-05T18:30:00Z", np.nan, 18.5),
        ("", 0.0, np.nan),
        ("yesterday", 0.0, np.nan),
    ],
)
def test_hour_is_local(captured_at, longitude, hour):
    assert local_hour(captured_at, longitude) == pytest.approx(hour, nan_ok=True)


def test_stored_places_are_coarse(tmp_path):
    gps = np.array([[52.5200, 13.4050], [52.5301, 13.3902], [-33.9, 151.2]])
    reference = reference_of(np.ones((3, len(FACTS))), places=coarse_places(gps))
    reference.write(tmp_path)
    stored = Reference.read(tmp_path).places * 0.5
    assert stored.tolist() == [[-34.0, 151.0], [52.5, 13.5]]


def test_facts_measure_brightness_and_sharpness():
    dark, bright = torch.zeros(3, 8, 8, dtype=torch.uint8), torch.full((3, 8, 8), 255, dtype=torch.uint8)
    stripes = dark.clone()
    stripes[:, ::2] = 255
    by_name = [dict(zip(FACTS, photo_facts(pixels, (40, 20)), strict=False)) for pixels in (dark, bright, stripes)]
    assert [facts["brightness"] for facts in by_name] == [0, 1, 0.5]
    assert [facts["sharpness"] for facts in by_name] == [0, 0, 0.5]
    assert (by_name[0]["aspect ratio"], by_name[0]["width"], by_name[0]["height"]) == (2, 40, 20)


@pytest.mark.parametrize("model_type", ALL_NETWORKS)
def test_features_are_what_the_head_gets(model_type):
    network = build_model(ModelSettings(name=model_type, config=ALL_NETWORKS[model_type]), SIZE).eval()
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        logits, features = logits_and_features(network, images)
        assert torch.equal(logits, network(pixel_values=images).logits)
        with without_head(network):
            assert torch.equal(features, network(pixel_values=images).logits)


def test_scored_patches_have_their_mean_token():
    network = build_model(ModelSettings(name="vit", config=ALL_NETWORKS["vit"], pooling="top_patches"), SIZE).eval()
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        tokens = network.backbone(images, return_dict=True).last_hidden_state
        assert torch.allclose(penultimate(network, images), tokens[:, 1:].mean(dim=1), atol=1e-6)


def test_ensemble_has_the_features_of_all_members():
    names = ("resnet", "vit")
    networks = [build_model(ModelSettings(name=name, config=ALL_NETWORKS[name]), SIZE).eval() for name in names]
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        expected = torch.cat([penultimate(network, images) for network in networks], dim=1)
        assert torch.equal(penultimate(EnsembleForImageClassification.of(networks), images), expected)


def scene(seed, foreign=False):
    """A photo of blocks in a street's own colours; foreign ones are blue and wide."""
    rng = np.random.default_rng(seed)
    colour = np.random.default_rng(seed // 4).integers(60, 200, 3)  # four photos per street
    blocks = np.clip(colour + rng.integers(-40, 40, (6, 8, 3)), 0, 255)
    if foreign:
        blocks[..., :2] //= 8
    return Image.fromarray(blocks.astype(np.uint8)).resize((128, 48) if foreign else (64, 48))


@pytest.fixture(scope="module")
def model(tmp_path_factory, model_folder):
    """A model folder with a reference of 25 streets."""
    folder = shutil.copytree(model_folder, tmp_path_factory.mktemp("familiarity") / "model")
    detector = Detector.load(folder, "cpu")
    photos = [np.asarray(scene(seed)) for seed in range(100)]
    pixels = torch.stack([detector.read(photo) for photo in photos])
    features = detector.logits_and_features(pixels)[1].numpy()
    facts = np.array([photo_facts(photo, (64, 48)) for photo in pixels])
    groups = np.arange(100) // 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(two_sample, "DRAWS", 40)
        patch.setattr(two_sample, "SIZES", (8, 16))
        sizes, null = null_distribution(features, groups, np.ones(100, dtype=bool))
    Reference(features, groups, facts[:, : len(FACTS)], sizes, null, {"mcc": 0.93}).write(folder)
    return folder


def test_detector_flags_a_foreign_look(model):
    detector = Detector.load(model, "cpu")
    familiar = detector.familiarity([scene(seed) for seed in range(1000, 1016)])
    foreign = detector.familiarity([scene(seed, foreign=True) for seed in range(1000, 1016)])
    assert (familiar.verdict, foreign.verdict) == (FAMILIAR, UNFAMILIAR)
    assert familiar.distance <= familiar.limit == foreign.limit < foreign.distance
    assert foreign.facts[0].name in ("aspect ratio", "width", "brightness")
    json.dumps(foreign.as_dict(), allow_nan=False)


def predict(capsys, model, photos, out):
    with pytest.raises(SystemExit) as end:
        main(["predict", str(model), str(photos), "--out", str(out), "--batch-size", "5"])
    assert not end.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize(("foreign", "verdict"), [(False, FAMILIAR), (True, UNFAMILIAR)])
def test_predict_prints_the_verdict(capsys, model, tmp_path, foreign, verdict):
    (tmp_path / "photos").mkdir()
    for seed in range(2000, 2016):
        scene(seed, foreign).save(tmp_path / "photos" / f"{seed}.png")
    out = predict(capsys, model, tmp_path / "photos", tmp_path / "o.geojson")
    found = json.loads((tmp_path / "o.geojson").read_text())["roadwork"]["familiarity"]
    assert (found["verdict"], found["n"]) == (verdict, 16)
    assert ("not look" in out) == foreign
    assert found["auc"] == pytest.approx(max(0.5, auc_of(found["distance"])))
    for shown in (f"{found['auc']:.2f}", f"{found['threshold']:.2f}", "0.93", f"roadwork evaluate {model} --on"):
        assert shown in out


def test_resumed_prediction_judges_all_photos(model, tmp_path):
    (tmp_path / "photos").mkdir()
    for seed in range(2000, 2016):
        scene(seed, foreign=seed < 2008).save(tmp_path / "photos" / f"{seed}.png")
    detector, found = Detector.load(model, "cpu"), find_photos([str(tmp_path / "photos")], sys.stdin.buffer)
    options = PredictOptions(batch_size=4, workers=1)
    whole = predict_to_file(model, detector, found, tmp_path / "whole.csv", options)
    with pytest.raises(InterruptedPredictionError) as stopped:
        predict_to_file(model, detector, found, tmp_path / "o.csv", options, should_stop=lambda: True)
    assert stopped.value.n_done == 4
    resumed = predict_to_file(model, detector, found, tmp_path / "o.csv", options)
    assert (resumed.n_predicted, resumed.familiarity) == (12, whole.familiarity)
    assert (tmp_path / "o.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_predict_without_reference_states_the_missing_file(capsys, model_folder, tmp_path):
    (tmp_path / "photos").mkdir()
    scene(0).save(tmp_path / "photos" / "0.png")
    out = predict(capsys, model_folder, tmp_path / "photos", tmp_path / "o.csv")
    assert REFERENCE_FILE in out
    with (tmp_path / "o.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 1


def test_few_photos_are_not_judged(model):
    found = Detector.load(model, "cpu").familiarity([scene(seed) for seed in range(7)])
    assert (found.verdict, found.n) == (UNKNOWN, 7)
    assert "8" in found.reason
    assert Detector.load(model, "cpu").familiarity([]).verdict == UNKNOWN


def test_network_without_features_is_not_judged(model):
    detector = Detector.load(model, "cpu")
    bare = Detector(detector.network.__call__, detector.preprocessing, detector.facts, detector.device)
    bare.reference = detector.reference
    assert bare.familiarity([scene(seed) for seed in range(8)]).verdict == UNKNOWN


def test_damaged_reference_is_rejected(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    (folder / REFERENCE_FILE).write_bytes((folder / REFERENCE_FILE).read_bytes()[:500])
    with pytest.raises(DataError, match=REFERENCE_FILE):
        Detector.load(folder, "cpu")


def test_largest_reference_is_under_two_megabytes(drives, tmp_path):
    features = np.random.default_rng(0).normal(size=(1000, 768))
    replace(drives, features=features, groups=np.arange(1000), facts=np.ones((1000, len(FACTS)))).write(tmp_path)
    assert (tmp_path / REFERENCE_FILE).stat().st_size < 2_000_000
    with ZipFile(tmp_path / REFERENCE_FILE) as file:
        names = {name.removesuffix(".npy") for name in file.namelist()}
    assert names == {"features", "groups", "facts", "sizes", "null", "val_test", "hours", "places"}
