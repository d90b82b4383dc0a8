"""Name what a release still needs; with the tag of the release, fail if anything is left.

Run:   python tests/check_release.py [TAG]
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
URLS = ("Source", "Issues", "Changelog", "Documentation")


def unfinished(root: Path, tag: str | None = None) -> list[str]:
    """Return what is left to do before a version may be released, a sentence each."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    package = (root / "src" / "tinygpt" / "__init__.py").read_text(encoding="utf-8")
    version = re.findall(r'^__version__ = "(.+)"$', package, re.MULTILINE)[0]
    left = []
    if absent := [name for name in URLS if name not in project.get("urls", {})]:
        left.append(f"pyproject.toml needs [project.urls] with {', '.join(absent)}; the address of the project is new")
    links = re.findall(r"\]\((?!https://|#)([^)]+)\)", (root / "README.md").read_text(encoding="utf-8"))
    if links:
        left.append(f"README.md is the page on PyPI, which needs absolute links, got {', '.join(links)}")
    changes = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changes, re.MULTILINE):
        left.append(f"CHANGELOG.md needs the heading '## [{version}] - YYYY-MM-DD' over what was [Unreleased]")
    if not (root / "tests" / "golden" / version).is_dir():
        left.append(f"tests/golden needs the files of {version}; run python tests/golden/make.py and commit them")
    if tag is not None and tag != f"v{version}":
        left.append(f"the tag must be v{version}, as in src/tinygpt/__init__.py, got {tag}")
    return left


def main() -> None:
    """Print the list."""
    tag = sys.argv[1] if len(sys.argv) > 1 else None
    left = unfinished(ROOT, tag)
    print("\n".join(["left before a release:", *(f"- {each}" for each in left)] if left else ["ready for a release"]))
    if left and tag is not None:
        sys.exit("not released")


if __name__ == "__main__":
    main()
