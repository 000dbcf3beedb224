"""Writes the configuration and the command reference from the code, each time the site is built.

MkDocs calls the `on_*` functions (`hooks` in mkdocs.yml). A generated page cannot be older than the code.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from itertools import groupby
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click

import roadwork.cli
from roadwork.cli.app import app
from roadwork.settings.reference import Field, describe_settings

ROOT = Path(__file__).resolve().parents[2]
# Files of the repository that are pages of the site, too.
COPIES = {
    "benchmarks.md": "benchmarks/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
}
ENTRIES = "list of mappings"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lists the pages of docs/decisions below `Decisions` in the navigation."""
    names = [f"decisions/{path.name}" for path in sorted(Path(config.docs_dir, "decisions").glob("[0-9]*.md"))]
    for section in config.nav or []:
        if isinstance(section, dict) and "Decisions" in section:
            section["Decisions"] = ["decisions/README.md", *names]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages and the copies of the repository's own files."""
    pages = {"reference/configuration.md": configuration_page(), "reference/cli.md": command_page()}
    pages |= {name: (ROOT / source).read_text(encoding="utf-8") for name, source in COPIES.items()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Turns links that hold in the repository into links that hold in the site."""
    del config, files
    name = page.file.src_uri
    here = (ROOT / COPIES[name]).parent if name in COPIES else (ROOT / "docs" / name).parent
    pages = {(ROOT / source).resolve(): copy for copy, source in COPIES.items()} | {ROOT / "README.md": "index.md"}

    def in_site(match: re.Match[str]) -> str:
        target = (here / match["path"]).resolve()
        if target in pages:
            uri = pages[target]
        elif name in COPIES and target.is_relative_to(ROOT / "docs"):
            uri = target.relative_to(ROOT / "docs").as_posix()
        else:
            return match[0]
        return f"]({'../' * name.count('/')}{uri}{match['anchor'] or ''})"

    return re.sub(r"\]\((?P<path>[\w./-]+\.\w+)(?P<anchor>#[\w-]+)?\)", in_site, markdown)


def configuration_page() -> str:
    """The Markdown of the configuration reference: one section a group, one heading a key."""
    parts = [
        "# Configuration reference",
        (
            "This page is generated from `roadwork/settings/`.\n"
            "Every key can be set in a YAML file, or on the command line as `key=value`: "
            "`roadwork train training.epochs=5`.\n"
            "A key with `[]` belongs to each entry of a list."
        ),
    ]
    for group, entries in groupby(describe_settings(), key=lambda entry: entry.group):
        parts.append(f"## {group or 'Top level'}")
        parts += [_setting(entry) for entry in entries]
    return "\n\n".join(parts) + "\n"


def _setting(entry: Field) -> str:
    kind = ENTRIES if "Settings]" in entry.type else entry.type.replace("Any", "any value")
    default = f"default `{entry.default}`" if entry.default else "no default"
    anchor = re.sub(r"[^\w.]", "", entry.key)
    description = re.sub(r"<(?=\w)(?=[^`]*(?:`[^`]*`[^`]*)*$)", "&lt;", entry.description)
    return f"#### `{entry.key}` {{ #{anchor} }}\n\n`{kind}`, {default}\n\n{description}"


def command_page() -> str:
    """The Markdown of the command reference: one section a help panel, one heading a command."""
    for module in pkgutil.iter_modules(roadwork.cli.__path__):
        importlib.import_module(f"roadwork.cli.{module.name}")  # each registers its commands
    parts = [
        "# Command reference",
        (
            "This page is generated from the commands; `roadwork COMMAND --help` prints the same.\n"
            "A command exits with 0 when it is done, 1 when it failed, and 2 for wrong usage."
        ),
    ]
    panels: dict[str, list[str]] = {}
    for panel, name, command in _commands(typer.main.get_command(app), ""):
        panels.setdefault(panel, []).append(_describe(name, command))
    for panel, commands in panels.items():
        parts += [f"## {panel}"] if len(panels) > 1 else []
        parts += commands
    return "\n\n".join(parts) + "\n"


def _commands(group: Any, prefix: str, panel: str = "Commands") -> list[tuple[str, str, Any]]:
    """(help panel, name, command) of each command of a group and of the groups inside it."""
    found = []
    for name, command in group.commands.items():
        own = getattr(command, "rich_help_panel", None)
        own = own if isinstance(own, str) else panel
        if hasattr(command, "commands"):
            found += _commands(command, f"{prefix}{name} ", own)
        elif not command.hidden:
            found.append((own, f"{prefix}{name}", command))
    return found


def _describe(name: str, command: Any) -> str:
    """What `typer utils docs` writes about one command, with its examples as code."""
    context = typer.Context(command, info_name=name)
    text = get_docs_for_click(obj=command, ctx=context, name=name, indent=2, call_prefix="roadwork")
    text = text.replace("```console\n$ ", "```text\n")
    text = re.sub(r"^\* `--help`.*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"\*\*Options\*\*:\s*\Z", "", text)
    return re.sub(
        r"(?:^|(?<=\S))[ \n]*Example: (roadwork .*)$", r"\n\n```bash\n\1\n```\n", text, flags=re.MULTILINE
    ).strip()
