import os

import pytest

from roadwork.cli import main


@pytest.mark.parametrize(("users", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_openmp_wait_policy_defaults_to_passive(monkeypatch, users, expected):
    monkeypatch.setenv("OMP_WAIT_POLICY", users or "")  # so that whatever main sets is undone
    if users is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    with pytest.raises(SystemExit):
        main(["--version"])
    assert os.environ["OMP_WAIT_POLICY"] == expected
