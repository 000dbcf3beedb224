"""Every configuration key with its type, default and description, read from the settings dataclasses."""

from __future__ import annotations

import ast
import inspect
import math
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from dataclasses import Field as DataclassField
from typing import Any, get_args, get_origin, get_type_hints

from roadwork.settings.limits import allowed_values
from roadwork.settings.root import Settings


@dataclass(frozen=True)
class Field:
    """One configuration key.

    Attributes:
        key: the full key, such as `data.gps_sampling.draw`; `[]` stands for an entry of a list.
        type: the annotation as it is written in the source.
        default: the default as YAML; empty if a value must be given.
        allowed: the allowed values in words; empty if every value of the type is allowed.
        description: the docstring under the field.
    """

    key: str
    type: str
    default: str
    allowed: str
    description: str

    @property
    def group(self) -> str:
        """The key of the mapping that holds this key: `data.gps_sampling`; empty at the top."""
        return self.key.rpartition(".")[0]


def describe_settings(schema: type = Settings) -> list[Field]:
    """All keys of a settings dataclass and of the dataclasses inside it, in the order of the source."""
    return list(_describe(schema, ""))


def _describe(schema: type, prefix: str) -> Iterator[Field]:
    documented, hints = _read_source(schema), get_type_hints(schema)
    groups: list[tuple[Any, str]] = []
    for field in fields(schema):
        key = f"{prefix}{field.name}"
        hint = hints[field.name]
        inner = next((kind for kind in (hint, *get_args(hint)) if is_dataclass(kind)), None)
        is_list = get_origin(hint) is list
        if inner is None or is_list:
            annotation, description = documented[field.name]
            yield Field(key, annotation, _default(field), allowed_values(field), description)
        if inner is not None:
            groups.append((inner, f"{key}[]." if is_list else f"{key}."))
    for inner, inner_prefix in groups:
        yield from _describe(inner, inner_prefix)


def _read_source(schema: type) -> dict[str, tuple[str, str]]:
    """(annotation, description) of each field of a dataclass, by its name."""
    source = textwrap.dedent(inspect.getsource(schema))
    body = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)).body
    return {
        node.target.id: (ast.unparse(node.annotation), _docstring(following))
        for node, following in zip(body, [*body[1:], None], strict=True)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def _docstring(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return inspect.cleandoc(node.value.value)
    return ""


def _default(field: DataclassField[Any]) -> str:
    if field.default is not MISSING:
        return as_yaml(field.default)
    return as_yaml(field.default_factory()) if field.default_factory is not MISSING else ""


def as_yaml(value: Any) -> str:
    """The value on one line of YAML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {as_yaml(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(as_yaml(inner) for inner in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return "inf" if value == math.inf else f"{value:.6g}"
    return str(value) or '""'
