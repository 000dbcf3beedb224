"""`roadwork predict` starts quickly because it imports only what a detector needs."""

import json
import subprocess
import sys

from fixtures.photos import make_photos

# Each takes from a tenth of a second to seconds to import.
UNNEEDED = ("lightning", "datasets", "sklearn", "pandas", "pyarrow", "kornia", "peft", "torchmetrics", "h3", "joblib")

COMMAND = """
import json, sys
from roadwork.cli import main
try:
    main(["predict", *sys.argv[2:]])
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps([name for name in json.loads(sys.argv[1]) if name in sys.modules]))
"""


def test_predict_imports_no_training_library(model_folder, tmp_path):
    make_photos(tmp_path / "photos", 1)
    command = [sys.executable, "-c", COMMAND, json.dumps(UNNEEDED), model_folder, tmp_path / "photos"]
    done = subprocess.run([*command, "--out", tmp_path / "o.csv"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []
    assert (tmp_path / "o.csv").is_file()
