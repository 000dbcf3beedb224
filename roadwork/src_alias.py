"""Makes `src.x` the very module that `roadwork.x` is, so that a class is one object under both names."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class _AliasFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, alias: str, package: str) -> None:
        self.alias = alias
        self.package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if not fullname.startswith(f"{self.alias}."):
            return None
        real = self.package + fullname.removeprefix(self.alias)
        if importlib.util.find_spec(real) is None:
            return None
        return ModuleSpec(fullname, self, origin=real, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(str(spec.origin))
        spec.loader_state = module.__spec__  # the import system is about to overwrite it
        return module

    def exec_module(self, module: ModuleType) -> None:
        alias_spec = module.__spec__
        if alias_spec is not None:
            module.__spec__ = alias_spec.loader_state


def alias_package(alias: str, package: str) -> None:
    """Lets every later import of `alias` or `alias.x` find the modules of `package`."""
    sys.modules[alias] = importlib.import_module(package)
    sys.meta_path.insert(0, _AliasFinder(alias, package))
