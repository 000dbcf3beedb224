"""Roadwork sites: distances are compared with geopy, probabilities with general invariants."""

import json
import math
import time

import numpy as np
import pandas as pd
import pytest
from geopy.distance import great_circle
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from roadwork.core.errors import ConfigError, DataError
from roadwork.detector.sites import SITE_COLUMNS, combine_photos, find_sites, write_sites

BERLIN = (52.52, 13.40)


def photos(positions, *, label="Roadwork", probability=0.9, captured_at=None, abstain=False, prefix="p"):
    positions = np.asarray(positions, dtype=float).reshape(-1, 2)
    return pd.DataFrame({
        "latitude": positions[:, 0],
        "longitude": positions[:, 1],
        "probability": probability,
        "label": label,
        "abstain": abstain,
        "captured_at": captured_at,
        "filename": [f"{prefix}{number}.jpg" for number in range(len(positions))],
    })  # fmt: skip


def move(position, metres, bearing):
    """A position some metres away, computed by geopy."""
    moved = great_circle(meters=metres).destination(position, bearing)
    return moved.latitude, moved.longitude


def metres(a, b):
    return great_circle(a, b).m


def around(center, count, rng, noise_m=8.0):
    return [move(center, abs(rng.normal(0, noise_m)), rng.uniform(0, 360)) for _ in range(count)]


def test_known_places_are_recovered_from_noisy_gps():
    rng = np.random.default_rng(0)
    places = [move(move(BERLIN, 250 * i, 0), 250 * j, 90) for i in range(6) for j in range(6)]
    frame = pd.concat(
        [photos(around(place, rng.integers(1, 9), rng), prefix=f"{n}-") for n, place in enumerate(places)]
        + [photos(move(places[0], 90, 90), label="None", prefix="none")]
    )
    sites = find_sites(frame, prior=None)
    assert len(sites) == len(places)
    for site in sites.itertuples():
        names = {int(name.split("-")[0]) for name in site.photos}
        assert len(names) == 1
        assert metres((site.latitude, site.longitude), places[names.pop()]) < 25
    assert sites["n_photos"].sum() == len(frame) - 1


@pytest.mark.parametrize("spacing_m", [5, 20, 49])
def test_line_of_detections_gives_a_row_of_sites(spacing_m):
    line = [move(BERLIN, metres_along, 70) for metres_along in range(0, 5000, spacing_m)]
    sites = find_sites(photos(line), radius_m=50, prior=None)
    assert 5000 / (100 + spacing_m) - 1 <= len(sites) <= 5000 / 50 + 1
    assert sites["n_photos"].sum() == len(line)
    by_name = {f"p{number}.jpg": position for number, position in enumerate(line)}
    for names in sites["photos"]:
        members = [by_name[name] for name in names]
        assert max(metres(members[0], member) for member in members) <= 100.01


@pytest.mark.parametrize("center", [(10.0, 180.0), (-10.0, -180.0), (89.9999, 45.0), (-89.9999, 0.0), (0.0, 0.0)])
def test_site_centre_at_the_antimeridian_and_pole(center):
    ring = [move(center, 20, bearing) for bearing in range(0, 360, 45)]
    sites = find_sites(photos(ring), prior=None)
    assert len(sites) == 1
    (site,) = sites.itertuples()
    assert metres((site.latitude, site.longitude), center) < 0.01
    assert site.radius_m == pytest.approx(20, abs=0.01)
    assert -180 <= site.longitude <= 180


def test_drive_across_the_antimeridian_is_one_day():
    ring = [move((10.0, 180.0), 20, bearing) for bearing in (90, 270)]
    (site,) = find_sites(photos(ring, captured_at="2024-05-01T12:00:00Z"), prior=None).itertuples()
    assert site.probability == pytest.approx(0.9)


def test_negative_photos_count_for_the_nearest_site_in_radius():
    frame = pd.concat([
        photos(BERLIN),
        photos(move(BERLIN, 200, 90), prefix="b"),
        photos([move(BERLIN, 49, 90), move(BERLIN, 10, 0)], label="None", probability=0.1, prefix="near"),
        photos(move(BERLIN, 51, 270), label="None", probability=0.1, prefix="far"),
    ])  # fmt: skip
    sites = find_sites(frame, prior=None).set_index(pd.Index(["b", "p"]))  # the site without None photos is first
    assert sites["n_photos_nearby_without"].tolist() == [0, 2]
    assert sites.loc["p", "probability"] < 0.9 == pytest.approx(sites.loc["b", "probability"])


def test_local_times_are_ordered_among_times_with_a_zone():
    times = ["2024-05-01T10:30:00", "2024-05-01T10:00:00Z", "2024-05-01T11:00:00+02:00"]  # 9:36, 10:00, 9:00 UTC
    (site,) = find_sites(photos([BERLIN] * 3, captured_at=times), prior=None).itertuples()
    assert (site.first_seen, site.last_seen) == (times[2], times[1])
    assert site.n_photos == 3


def test_abstained_unlocated_and_unreadable_rows_are_ignored():
    frame = pd.concat([
        photos(BERLIN),
        photos(BERLIN, abstain=True, probability=0.5, prefix="abstains"),
        photos((math.nan, math.nan), prefix="nowhere"),
        photos(BERLIN, label=None, probability=math.nan, abstain=None, prefix="unreadable"),
    ])  # fmt: skip
    (site,) = find_sites(frame, prior=None).itertuples()
    assert (site.n_photos, site.n_photos_nearby_without, site.photos) == (1, 0, ["p0.jpg"])


@pytest.mark.parametrize("frame", [photos([]), photos(BERLIN, label="None"), photos(BERLIN, abstain=True)])
def test_no_detection_gives_no_site(frame, tmp_path):
    sites = find_sites(frame, prior=None)
    assert list(sites.columns) == list(SITE_COLUMNS)
    assert not len(sites)
    write_sites(sites, tmp_path / "sites.geojson")
    assert json.loads((tmp_path / "sites.geojson").read_text()) == {"type": "FeatureCollection", "features": []}


def test_sites_ignore_order_and_repetition_of_rows():
    rng = np.random.default_rng(1)
    frame = photos([p for n in range(20) for p in around(move(BERLIN, 70 * n, 45), 6, rng, 15)])
    frame["probability"] = rng.uniform(0.5, 1, len(frame))
    frame.loc[::3, "label"] = "None"
    frame["captured_at"] = [f"2024-05-{day:02d}T10:00:00Z" for day in rng.integers(1, 28, len(frame))]
    expected = find_sites(frame, prior=0.3)
    shuffled = pd.concat([frame, frame[:30]]).sample(frac=1, random_state=2)
    pd.testing.assert_frame_equal(find_sites(shuffled, prior=0.3), expected)


def test_site_id_survives_later_photos():
    early = photos([BERLIN, move(BERLIN, 10, 0)], captured_at="2024-05-01T10:00:00Z")
    late = photos([move(BERLIN, 15, 90), move(BERLIN, 12, 200)], captured_at="2024-06-01T10:00:00Z", prefix="late")
    before, after = (find_sites(frame, prior=None)["site_id"].tolist() for frame in (early, pd.concat([late, early])))
    assert before == after


def test_first_and_last_seen_respect_time_zones():
    times = ["2024-05-01T23:30:00-05:00", "2024-05-02T03:00:00Z", None, "gibberish"]
    frame = photos([BERLIN] * 4, captured_at=times)
    (site,) = find_sites(frame, prior=None).itertuples()
    assert (site.first_seen, site.last_seen) == (times[1], times[0])
    (unknown,) = find_sites(frame[2:], prior=None).itertuples()
    assert (unknown.first_seen, unknown.last_seen) == (None, None)


@pytest.mark.parametrize(
    ("position", "times", "is_one_day"),
    [
        ((34.05, -118.24), ["2024-05-01T23:50:00Z", "2024-05-02T00:10:00Z"], True),  # an afternoon in Los Angeles
        ((34.05, -118.24), ["2024-05-01T18:00:00Z", "2024-05-02T18:00:00Z"], False),
        ((34.05, -118.24), ["2024-05-01T16:50:00-07:00", "2024-05-01T17:10:00-07:00"], True),
        ((34.05, -118.24), ["2024-05-01T10:00:00", "2024-05-01T17:00:00"], True),  # without a zone
        ((34.05, -118.24), ["2024-05-01", "2024-05-02"], False),
    ],
)
def test_days_are_local_days(position, times, is_one_day):
    (site,) = find_sites(photos([position, move(position, 5, 0)], captured_at=times), prior=None).itertuples()
    assert (site.probability == pytest.approx(0.9)) == is_one_day
    assert site.probability >= 0.9 - 1e-12


def test_dense_city_takes_seconds():
    rng = np.random.default_rng(0)
    frame = photos(np.array(BERLIN) + rng.uniform(0, 0.005, (100_000, 2)))
    started = time.process_time()
    sites = find_sites(frame, prior=None)
    assert time.process_time() - started < 20  # all pairs within the radius would take minutes
    assert sites["n_photos"].sum() == len(frame)


PROBABILITY = st.floats(0.001, 0.999)
SHOWN = st.tuples(st.floats(0.3, 0.999), st.integers(0, 4), st.just(value=True))
HIDDEN = st.tuples(PROBABILITY, st.integers(0, 4), st.just(value=False))
PRIOR = st.sampled_from([None, 0.01, 0.3, 0.5])


def combined(prior, *sites):
    """The probability of each site, given as rows of probability, day and is_roadwork."""
    rows = [(number, *row) for number, site in enumerate(sites) for row in site]
    return combine_photos(pd.DataFrame(rows, columns=["site", "probability", "day", "is_roadwork"]), prior=prior)


@settings(max_examples=50, deadline=None)
@given(st.lists(SHOWN, min_size=1, max_size=6), st.lists(HIDDEN, max_size=5), SHOWN, HIDDEN, PRIOR, st.randoms())
def test_invariants_of_site_combination(shown, hidden, more, less, prior, random):
    site = shown + hidden
    base, with_more, with_less, twice, shuffled = combined(
        prior, site, [*site, more], [*site, less], 2 * site, random.sample(site, len(site))
    )
    assert with_more >= base - 1e-12, "a further Roadwork photo never lowers it"
    assert with_less <= base + 1e-12, "a photo without never raises it"
    assert twice == pytest.approx(base), "repeated photos add nothing"
    assert shuffled == pytest.approx(base)
    strongest = max(logit(p) for p, *_ in shown) - logit(prior or 0.5)
    assert logit(base) <= logit(prior or 0.5) + 2 * max(strongest, 0) + 1e-9, "at most twice the strongest"


@settings(max_examples=30, deadline=None)
@given(PROBABILITY, PRIOR)
def test_single_photo_keeps_its_probability(probability, prior):
    assert combined(prior, [(probability, 0, True)]) == pytest.approx(probability)


def test_dependent_days_match_hand_computation():
    rows = [(0.9, day, True) for day in range(3)]
    assert combined(0.5, rows) == pytest.approx(expit(1.5 * logit(0.9)))  # 3 / (1 + 2 / 2)
    against = [*rows[:1], (0.1, 0, False), (0.1, 1, False)]  # the second is from a day without a Roadwork photo
    assert combined(0.5, against) == pytest.approx(expit(logit(0.9) + math.log(0.5 / 9 + 0.5)))


def test_sites_are_written_as_plain_geojson_and_csv(tmp_path):
    sites = find_sites(photos([BERLIN, move(BERLIN, 30, 10)], captured_at=["2024-05-01T10:00:00Z", None]), prior=None)
    write_sites(sites, tmp_path / "sites.geojson")
    (feature,) = json.loads((tmp_path / "sites.geojson").read_text())["features"]
    assert feature["geometry"]["type"] == "Point"
    longitude, latitude = feature["geometry"]["coordinates"]
    assert metres((latitude, longitude), BERLIN) < 20
    assert feature["properties"]["photos"] == ["p0.jpg", "p1.jpg"]
    assert feature["properties"]["last_seen"] == "2024-05-01T10:00:00Z"
    assert feature["id"] == sites.loc[0, "site_id"]
    write_sites(sites, tmp_path / "sites.csv")
    table = pd.read_csv(tmp_path / "sites.csv")
    assert json.loads(table.loc[0, "photos"]) == ["p0.jpg", "p1.jpg"]
    assert not [p for p in tmp_path.iterdir() if p.suffix == ".tmp"]


def test_unknown_times_are_null_in_geojson(tmp_path):
    write_sites(find_sites(photos(BERLIN), prior=None), tmp_path / "sites.geojson")
    (feature,) = json.loads((tmp_path / "sites.geojson").read_text())["features"]
    assert feature["properties"]["first_seen"] is None


@pytest.mark.parametrize("radius_m", [0, -1, 4.9, 5000, math.nan])
def test_invalid_radius_is_rejected(radius_m):
    with pytest.raises(ConfigError, match="radius"):
        find_sites(photos(BERLIN), radius_m=radius_m, prior=None)


def test_invalid_column_prior_and_suffix_are_rejected(tmp_path):
    with pytest.raises(DataError, match="captured_at"):
        find_sites(photos(BERLIN).drop(columns="captured_at"), prior=None)
    with pytest.raises(ConfigError, match="prior"):
        find_sites(photos(BERLIN), prior=1.0)
    with pytest.raises(ConfigError, match="geojson"):
        write_sites(find_sites(photos(BERLIN), prior=None), tmp_path / "sites.shp")
