"""`roadwork split --verify` finds and names every leak that is planted, and passes what is clean."""

import csv
import json

import pytest
from PIL import Image

from roadwork.cli import main
from roadwork.settings import SPLIT_NAMES

KM_NORTH = 1 / 111.195  # degrees of latitude


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code or 0


class World:
    """A hand-made dataset of demo scenes, each 100 km from the next, and a hand-made splits.json."""

    def __init__(self, root, scenes):
        self.root = root
        self.rows = []
        self.splits = {name: [] for name in SPLIT_NAMES}
        (root / "images").mkdir(parents=True)
        for i, (label, path) in enumerate(scenes):
            self.add(path, f"scene{i:02d}.jpg", SPLIT_NAMES[i // 2 % 4], label, 30 + i * 0.9, sequence=f"drive{i}")

    def add(self, path, name, split, label, latitude="", sequence="", quality=None):
        with Image.open(path) as image:
            if quality:
                image.save(self.root / "images" / name, quality=quality)
            else:
                (self.root / "images" / name).write_bytes(path.read_bytes())
        longitude = 10 if latitude != "" else ""
        self.rows.append(
            {"filename": name, "label": label, "latitude": latitude, "longitude": longitude, "sequence_id": sequence}
        )
        self.splits[split].append(name)

    def write(self):
        with (self.root / "labels.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, self.rows[0])
            writer.writeheader()
            writer.writerows(self.rows)
        (self.root / "splits.json").write_text(json.dumps(self.splits))

    def verify(self, *arguments):
        self.write()
        before = self.contents()
        code = run("split", "--verify", f"data.root={self.root}", *arguments)
        assert self.contents() == before
        return code

    def contents(self):
        return {path: path.read_bytes() for path in self.root.parent.rglob("*") if path.is_file()}

    def plant_reencoded(self):
        """The same picture at another quality, without a position or a sequence that would tell."""
        self.add(self.root / "images/scene00.jpg", "reposted.jpg", "val_test", self.rows[0]["label"], quality=60)

    def plant_frames(self, demo_root):
        """Two frames of one drive, under names that do not tell."""
        for name, frame, split in (("morning.jpg", 0, "train"), ("street.jpg", 1, "val_select")):
            path = sorted(demo_root.glob("images/*-0007-?.jpg"))[frame]
            self.add(path, name, split, "None", 50 + frame * 0.005 * KM_NORTH, sequence="drive77")

    def plant_neighbours(self):
        """Another scene 300 m down the road."""
        self.add(self.scene_apart, "corner.jpg", "val_calib", "None", 30 + 0.3 * KM_NORTH, sequence="drive99")


@pytest.fixture
def world(tmp_path, monkeypatch, demo_root):
    monkeypatch.chdir(tmp_path)
    scenes = {"None": [], "Roadwork": []}
    with (demo_root / "labels.csv").open() as file:
        for row in csv.DictReader(file):
            if row["filename"].endswith("-0.jpg") and "-0007-" not in row["filename"]:
                scenes[row["label"]].append((row["label"], demo_root / row["filename"]))
    assert min(map(len, scenes.values())) > 8
    made = World(tmp_path / "mine", [scenes[label][i] for i in range(8) for label in ("None", "Roadwork")])
    made.scene_apart = scenes["None"][8][1]
    return made


def test_clean_user_file_passes(world, capsys):
    assert world.verify() == 0
    shown = capsys.readouterr().out
    assert "✅ No leaks." in shown
    assert "your own splits" in shown
    assert "Closest rows" in shown
    for name in SPLIT_NAMES:
        assert name in shown


def test_all_planted_leaks_are_found_and_named(world, demo_root, capsys):
    world.plant_reencoded()
    world.plant_frames(demo_root)
    world.plant_neighbours()
    assert world.verify() == 1
    shown = capsys.readouterr().out
    assert "❌ Scenes with near-duplicate images in more than one split: " in shown
    assert "scene00.jpg (train) and reposted.jpg (val_test), distance unknown" in shown
    assert "❌ Sequences in more than one split: 1" in shown
    assert "morning.jpg (train) and street.jpg (val_select), 5 m apart, of sequence drive77" in shown
    assert "❌ Rows closer than 1.0 km to another split: 4" in shown
    assert "scene00.jpg (train) and corner.jpg (val_calib), 300 m apart" in shown
    assert "✅" not in shown

    assert world.verify("--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["leaks_nothing"] is False
    assert {leak["kind"]: leak["count"] for leak in found["leaks"]}["distance"] == 4
    assert {leak["kind"] for leak in found["leaks"]} == {"sequence", "near_duplicate", "distance"}


@pytest.mark.parametrize(
    ("plant", "kinds"),
    [
        ("plant_reencoded", {"near_duplicate"}),
        ("plant_neighbours", {"distance"}),
        ("plant_frames", {"sequence", "distance"}),
    ],
)
def test_each_planted_leak_alone(world, demo_root, capsys, plant, kinds):
    getattr(world, plant)(*([demo_root] if plant == "plant_frames" else []))
    assert world.verify("--json") == 1
    found = {leak["kind"] for leak in json.loads(capsys.readouterr().out)["leaks"]}
    assert kinds <= found <= kinds | ({"near_duplicate"} if plant == "plant_frames" else set())


def test_disabled_leak_checks_are_reported(world, capsys):
    world.plant_reencoded()
    world.plant_neighbours()
    assert world.verify("data.splitting.near_duplicates=false", "data.splitting.buffer_km=0") == 0
    shown = capsys.readouterr().out
    assert "Near-duplicate images were not looked for" in shown
    assert "the buffer is 0 km" in shown
    assert "1 rows of the splits have no GPS" in shown


def test_whether_the_test_resembles_the_deployment(world, capsys):
    assert world.verify() == 0
    assert "resembles the deployment by construction: the deployment points are its own" in capsys.readouterr().out
    (world.root / "deployment.csv").write_text("lat,lon\n-33.9,18.4\n-33.8,18.5\n")
    assert world.verify() == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "val_test is easier than the deployment" in shown
    assert "deployment.csv" in shown
    assert world.verify("--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["resemblance"]["verdict"] == "easier"
    assert found["resemblance"]["deployment_median_km"] > 5000 > found["resemblance"]["test_median_km"]
    in_train = {"rows": 4, "share": 0.25, "ratio": 0.6, "roadwork_share": 0.5, "groups": 4}
    assert found["splits"]["train"] == in_train


def test_without_positions_the_resemblance_is_not_known(world, capsys):
    for row in world.rows:
        row["latitude"] = row["longitude"] = ""
        path = world.root / "images" / row["filename"]
        Image.open(path).save(path, quality=95)  # without the EXIF position
    assert world.verify() == 0
    shown = capsys.readouterr().out
    assert "is not known: no row of train has GPS" in shown
    assert "Closest rows" not in shown


def test_what_split_makes_is_verified(tmp_path, monkeypatch, demo_root, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = (f"data.root={demo_root}", "data.splits_file=own.json")
    assert run("split", *arguments) == 0
    written = (tmp_path / "own.json").read_bytes()
    assert run("split", "--verify", *arguments) == 0
    assert "own.json: geographic splits" in capsys.readouterr().out
    assert (tmp_path / "own.json").read_bytes() == written
    assert run("split", *arguments, "data.splitting.strategy=random") == 0
    assert "a RANDOM split, which leaks by design" in capsys.readouterr().out
    assert run("split", "--verify", *arguments) == 1
    assert "a RANDOM split, which leaks by design" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--verify", "data.splits_file=none.json"], 2, "data.splits_file is none.json, which is not there. Run `r"),
        (["data.splitting.strategy=temporal", "data.splitting.after=soon"], 2, "data.splitting.after is 'soon'"),
        (["--verify", "output_dir=results"], 1, "splits.json or results/splits.json"),
        (["--verify", "data.splits_file=damaged.json"], 1, "damaged.json cannot be read as JSON"),
        (["--json"], 2, "--verify"),
    ],
)
def test_a_users_mistake_is_one_clear_message(world, capsys, monkeypatch, arguments, code, said):
    world.write()
    (world.root / "splits.json").unlink()
    (world.root.parent / "damaged.json").write_text("{")
    assert run("split", *arguments, f"data.root={world.root}") == code
    captured = capsys.readouterr()
    assert said in " ".join(captured.err.split())
    assert "Traceback" not in captured.err
