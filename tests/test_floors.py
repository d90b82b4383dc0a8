"""The lowest versions that are declared are those that `make floors` installs."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def declared() -> dict[str, str]:
    """Return the lowest version of each requirement for running and testing the library."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    requirements = [*project["dependencies"], *extras["plots"], *extras["onnx"], *extras["test"]]
    pairs = (
        re.fullmatch(r"([\w-]+)>=([\d.]+)(?:,<\d+)?", each) for each in requirements if not each.startswith("tinygpt[")
    )
    return {pair[1]: pair[2] for pair in pairs if pair}


def test_every_declared_floor_is_one_that_is_run() -> None:
    lines = (ROOT / "floors.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("#")[0].strip().split("==") for line in lines if line and line[0] != "#")
    floors = declared()
    assert len(floors) == 14
    assert pinned.keys() - floors.keys() == {"pyparsing", "onnxruntime"}  # for matplotlib, and for tests
    for name, version in floors.items():
        assert re.fullmatch(re.escape(version) + r"(\.0)*", pinned[name]), (name, version, pinned[name])


def test_pytest_refuses_to_run_below_its_floor() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    assert settings["minversion"] == declared()["pytest"]
