"""Write constraints.txt from pip's report of what it would install."""

import json
import sys
from pathlib import Path

HEADER = """\
# What development, tests, documentation and the demonstration install, so that a fresh machine gets what CI had.
# It binds nobody who uses the library: its own requirements, in pyproject.toml, are ranges.
# `make constraints` writes it. It has no hashes: with hashes here, pip refuses to install the checkout, which has none.
"""


def main() -> None:
    """Read the report from standard input."""
    found = [entry["metadata"] for entry in json.load(sys.stdin)["install"]]
    lines = [f"{each['name']}=={each['version'].partition('+')[0]}\n" for each in found if each["name"] != "tinygpt"]
    path = Path(__file__).parent.parent / "constraints.txt"
    path.write_text(HEADER + "".join(sorted(lines, key=str.lower)), encoding="utf-8")


if __name__ == "__main__":
    main()
