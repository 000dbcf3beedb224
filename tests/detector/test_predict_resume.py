"""A killed prediction resumes: no photo is lost, predicted twice or written twice."""

import csv
import os
import signal

import pytest
from fixtures.detectors import make_model_folder
from fixtures.photos import make_photos, write_parquet

from roadwork.core.errors import DataError
from roadwork.detector import outputs, predict, resume
from roadwork.detector import predict as judging
from roadwork.detector.detector import Detector
from roadwork.detector.discovery import find_photos
from roadwork.detector.predict import InterruptedPredictionError, PredictOptions, predict_to_file
from roadwork.detector.resume import Partial, partial_path

N = 23
OPTIONS = PredictOptions(batch_size=4, workers=2)


class Run:
    """Predictions of one folder into one file; counts the photos that are read."""

    def __init__(self, root, model, monkeypatch):
        self.root, self.model, self.out = root, model, root / "o.csv"
        self.read = []
        make_photos(root / "photos", N)
        original = judging.read_photo
        monkeypatch.setattr(
            judging, "read_photo", lambda photo, **options: self.read.append(photo.name) or original(photo, **options)
        )

    def __call__(self, inputs=("photos",), model=None, options=OPTIONS, **more):
        model = model or self.model
        found = find_photos([str(self.root / name) for name in inputs])
        self.read.clear()
        return predict_to_file(model, Detector.load(model), found, self.out, options, **more)

    def rows(self):
        with self.out.open(newline="") as file:
            return list(csv.DictReader(file))

    def killed(self, prepare):
        """Runs in a separate process, which `prepare` makes kill itself."""
        child = os.fork()
        if not child:
            try:
                prepare()
                self()
            finally:
                os._exit(7)  # the kill did not happen
        assert os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.fixture
def run(tmp_path, model_folder, monkeypatch):
    return Run(tmp_path, model_folder, monkeypatch)


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def die_in(where, name, *, call=1, after=False):
    """Kills the process at the `call`-th call of a function, before or after its work."""

    def prepare():
        original, count = getattr(where, name), 0

        def deadly(*args, **kwargs):
            nonlocal count
            count += 1
            if count == call and not after:
                die()
            result = original(*args, **kwargs)
            if count == call:
                die()
            return result

        setattr(where, name, deadly)

    return prepare


def die_in_the_middle_of_a_line():
    original, count = Partial.append, 0

    def append(self, records):
        nonlocal count
        count += 1
        if count == 3:
            self._file.write(next(iter(records.values())).to_line()[:-5])
            self._file.flush()
            die()
        original(self, records)

    Partial.append = append


def die_in_the_middle_of_the_output():
    original = outputs.write_records

    def write(path, records, facts):
        def some():
            for number, record in enumerate(records):
                if number == 10:
                    die()
                yield record

        original(path, some(), facts)

    predict.write_records = write


POINTS = {
    "before anything": (die_in(resume, "_check_header"), 0),
    "after the header": (die_in(resume, "_check_header", after=True), 0),
    "in the first batch": (die_in(predict, "predict_batch"), 0),
    "before a batch is kept": (die_in(Partial, "append", call=2), 4),
    "after a batch is kept": (die_in(Partial, "append", call=2, after=True), 8),
    "in the middle of a line": (die_in_the_middle_of_a_line, 8),
    "after the last batch": (die_in(Partial, "append", call=6, after=True), N),
    "in the middle of the output": (die_in_the_middle_of_the_output, N),
    "after the output": (die_in(predict, "write_records", after=True), N),
}


@pytest.mark.parametrize("point", POINTS)
def test_resumes_after_a_kill_at_any_point(run, tmp_path, point):
    prepare, n_kept = POINTS[point]
    run.killed(prepare)
    assert partial_path(run.out).is_file()
    assert run.out.exists() == (point == "after the output")
    summary = run()
    assert (summary.n_predicted, summary.n_photos) == (N - n_kept, N)
    assert len(run.read) == N - n_kept
    resumed = run.rows()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.csv", "photos"]
    run.out.unlink()
    run()
    assert [row["filename"] for row in resumed] == [row["filename"] for row in run.rows()]
    for row, whole in zip(resumed, run.rows(), strict=True):
        assert float(row["probability"]) == pytest.approx(float(whole["probability"]), abs=1e-6)
        assert row | {"probability": ""} == whole | {"probability": ""}


def test_finishes_after_repeated_kills(run):
    for call in (1, 2, 1, 1):
        run.killed(die_in(Partial, "append", call=call, after=True))
    assert run().n_predicted == N - 5 * 4
    assert len(run.rows()) == N


def stopped(run, after=2, **more):
    asked = iter(range(100))
    with pytest.raises(InterruptedPredictionError) as error:
        run(should_stop=lambda: next(asked) == after - 1, **more)
    return error.value


def test_stop_signal_finishes_the_batch(run):
    error = stopped(run)
    assert (error.n_done, error.n_photos) == (8, N)
    assert not run.out.exists()
    assert run().n_predicted == N - 8


def test_photos_added_and_removed_between_calls(run):
    """The output has the order of the last inputs, without predictions of removed photos."""
    stopped(run)
    make_photos(run.root / "photos", 3, start=100)
    (run.root / "photos" / "000a.jpg").write_bytes((run.root / "photos" / "100.jpg").read_bytes())
    (run.root / "photos" / "001.jpg").unlink()
    summary = run()
    assert summary.n_predicted == N - 8 + 4
    expected = sorted(str(path) for path in (run.root / "photos").iterdir())
    assert [row["filename"] for row in run.rows()] == expected
    assert [row["probability"] for row in run.rows() if "000a" in row["filename"]] == [
        row["probability"] for row in run.rows() if "100" in row["filename"]
    ]


def test_embedded_photos_resume(run):
    images = [path.read_bytes() for path in sorted((run.root / "photos").iterdir())]
    write_parquet(run.root / "p.parquet", images)
    stopped(run, inputs=["p.parquet"])
    assert run(inputs=["p.parquet"]).n_predicted == N - 8
    embedded = [float(row["probability"]) for row in run.rows()]
    run(overwrite=True)
    assert embedded == pytest.approx([float(row["probability"]) for row in run.rows()], abs=1e-6)


def test_predictions_of_another_model_are_rejected(run, tmp_path, caplog):
    stopped(run)
    other = make_model_folder(tmp_path / "model", seed=1)
    with pytest.raises(DataError, match=r"model.*--overwrite"):
        run(model=other)
    with pytest.raises(DataError, match=r"views.*none"):
        run(options=PredictOptions(4, 2, views="flip"))
    with pytest.raises(DataError, match=r"coarsen_gps.*None"):
        run(options=PredictOptions(4, 2, coarsen_gps=2))
    assert run(model=other, overwrite=True).n_predicted == N
    assert "another model" in caplog.text
    run.out.unlink()
    stopped(run)
    assert run(options=PredictOptions(7, 1)).n_predicted == N - 8  # batch size and workers do not change predictions


def test_overwrite_resumes_with_the_same_model(run):
    run()
    stopped(run, overwrite=True)
    assert len(run.rows()) == N  # the old file stays until the new one is complete
    assert run(overwrite=True).n_predicted == N - 8


def test_finished_file_needs_overwrite(run):
    run()
    with pytest.raises(DataError, match=r"o\.csv.*--overwrite"):
        run()
    assert run(overwrite=True).n_predicted == N


def test_two_concurrent_calls_are_rejected(run):
    with (
        resume.open_partial(partial_path(run.out), {}, [], overwrite=False),
        pytest.raises(DataError, match="`roadwork predict`"),
    ):
        run(overwrite=True)


def test_foreign_file_is_not_used_as_a_partial_file(run):
    partial_path(run.out).write_text("dear diary\n")
    with pytest.raises(DataError, match="partial"):
        run()
    assert partial_path(run.out).read_text() == "dear diary\n"
