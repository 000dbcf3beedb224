"""What was run: wires seen to work, versions, seeds, configuration."""

from __future__ import annotations

from omegaconf import OmegaConf

from roadwork.report.run_files import RunFiles
from roadwork.report.section import Section


def setup_section(run: RunFiles) -> Section:
    """The wiring table, and what it takes to repeat the run."""
    manifest = run.manifest
    facts = {
        "created": manifest.get("created"),
        "roadwork": manifest.get("roadwork"),
        "git revision": manifest.get("git_revision"),
        "Python": manifest.get("python"),
        **manifest.get("versions", {}),
        **{f"seed of {name}": value for name, value in manifest.get("seeds", {}).items()},
    }
    shown = {
        "wiring": manifest.get("wiring", []),
        "facts": {name: value for name, value in facts.items() if value is not None},
        "configuration": OmegaConf.to_yaml(OmegaConf.structured(run.settings)),
    }
    return Section("setup", "Wiring and setup", shown)
