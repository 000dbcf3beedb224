"""Content of the demo scenes; neither colours nor places reveal the label."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import matthews_corrcoef
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from roadwork.demo import generate_demo_data
from roadwork.demo.places import plan_sequences
from roadwork.demo.scene import VISIBLE_SHARE, plan_scene


def test_only_positive_pictures_show_roadwork():
    for sequence in plan_sequences(1600, seed=0)[::5]:
        scene = plan_scene(sequence, seed=0)
        shares = [scene.visible_share(frame) for frame in range(sequence.frames)]
        if sequence.label:
            assert min(shares) >= 0.8 * VISIBLE_SHARE[0], sequence.name  # the frames between may hide a little more
        else:
            assert max(shares) == 0


def test_visible_share_agrees_with_the_drawn_difference():
    """The measured share equals the share of pixels that change when the roadwork is removed."""
    sequences = [s for s in plan_sequences(400, seed=0) if s.label and s.condition == ("clear", "day")][:6]
    for sequence in sequences:
        scene = plan_scene(sequence, seed=0)
        bare = [item for item in scene.items if not item.is_roadwork]
        with_works = scene.pictures((320, 240))
        without = replace(scene, items=bare).pictures((320, 240))
        difference = np.abs(np.asarray(with_works[0], int) - np.asarray(without[0], int)).max(axis=2)
        assert (difference > 12).mean() == pytest.approx(scene.visible_share(0), rel=0.45)


def test_surroundings_do_not_depend_on_the_label():
    """Plans of a sequence with and without roadwork differ only by the roadwork."""
    for sequence in plan_sequences(200, seed=0)[::7]:
        plain = plan_scene(replace(sequence, label=0), seed=0)
        works = plan_scene(replace(sequence, label=1), seed=0)
        rest = [item for item in works.items if not item.is_roadwork]
        assert [(item.x, item.z, type(item.draw)) for item in rest] == [
            (item.x, item.z, type(item.draw)) for item in plain.items
        ]
        assert len(works.items) > len(rest)


def held_out_mcc(features, labels, sequences):
    """MCC of a logistic regression on a tenth of the sequences, mean of three draws."""
    names = np.unique(sequences)
    figures = []
    for seed in range(3):
        held = np.random.default_rng((7, seed)).choice(names, len(names) // 10, replace=False)
        test = np.isin(sequences, held)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
        figures.append(
            matthews_corrcoef(labels[test], model.fit(features[~test], labels[~test]).predict(features[test]))
        )
    return float(np.mean(figures))


def colour_histogram(path):
    """(512,) share of pixels in each of 8 x 8 x 8 colours."""
    with Image.open(path) as image:
        pixels = np.asarray(image, int).reshape(-1, 3) // 32
    return np.bincount(pixels @ (64, 8, 1), minlength=512) / len(pixels)


@pytest.mark.parametrize("images", [1200, pytest.param(4800, marks=pytest.mark.slow)])
def test_colours_alone_do_not_reveal_the_label(tmp_path, images):
    generate_demo_data(tmp_path / "data", images=images, size=(160, 120), seed=0, processes=2)
    planned = [(s, frame) for s in plan_sequences(images, seed=0) for frame in range(s.frames)]
    paths = [tmp_path / "data" / "images" / f"{s.name}-{frame}.jpg" for s, frame in planned]
    histograms = np.array([colour_histogram(path) for path in paths])
    labels, names = (np.array([getattr(s, field) for s, _ in planned]) for field in ("label", "name"))
    assert held_out_mcc(histograms, labels, names) <= 0.40


@pytest.mark.parametrize("seed", [0, 1])
def test_places_alone_do_not_reveal_the_label(seed):
    sequences = plan_sequences(4800, seed)
    places = np.array([(s.latitude, s.longitude) for s in sequences])
    labels, names = (np.array([getattr(s, field) for s in sequences]) for field in ("label", "name"))
    assert held_out_mcc(places, labels, names) <= 0.30
