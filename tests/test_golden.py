"""Files of released versions are read for ever, and mean what they meant."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tinygpt import Sampler

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))
import make  # noqa: E402 - the folder is not a package

VERSIONS = sorted(path.name for path in GOLDEN.iterdir() if (path / "expected.json").is_file())
FILES = [(version, path.stem) for version in VERSIONS for path in (GOLDEN / version).glob("[!s]*.safetensors")]


def expected(version: str) -> dict[str, Any]:
    return json.loads((GOLDEN / version / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def _in_float32() -> None:
    torch.set_default_dtype(torch.float32)


def test_there_are_golden_files() -> None:
    assert len(FILES) >= 4


@pytest.mark.parametrize(("version", "name"), FILES)
def test_a_model_of_an_earlier_version_writes_as_it_did(version: str, name: str) -> None:
    found = make.answers(Sampler.load(GOLDEN / version / f"{name}.safetensors"))
    wanted = expected(version)[name]
    assert found["scores"] == pytest.approx(wanted["scores"], abs=1e-4)
    assert (found["greedy"], found["drawn"]) == (wanted["greedy"], wanted["drawn"])


@pytest.mark.filterwarnings("ignore:resuming with changed settings")  # another version, processor or number of threads
@pytest.mark.parametrize("version", VERSIONS)
def test_a_run_of_an_earlier_version_goes_on(version: str, tmp_path: Path) -> None:
    shutil.copy(next((GOLDEN / version).glob("step-*")), tmp_path)
    history = make.trainer(make.models()["modern"], tmp_path).fit(resume=True, progress=False)
    assert history.last.step == 6
    assert history.losses == pytest.approx(expected(version)["run"], abs=1e-4)
