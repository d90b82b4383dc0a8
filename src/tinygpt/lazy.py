"""Packages whose names are imported at their first use, so that ``import tinygpt`` needs no torch."""

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazy_names(package: str, **modules: list[str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package that imports its modules at their first use.

    The package imports the names under ``if TYPE_CHECKING`` as well, for type checkers and editors.

    Args:
        package: The package's ``__name__``.
        modules: The public names of each of its modules, by module. No name may be that of a module.

    Source:
        PEP 562. https://peps.python.org/pep-0562/
    """
    homes = {module: module for module in modules} | {name: home for home, names in modules.items() for name in names}

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(f"{package}.{homes[name]}")
        found = module if name == homes[name] else getattr(module, name)
        setattr(sys.modules[package], name, found)
        return found

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return find, names
