"""Write the golden files of a version: a model of each kind, and a checkpoint of a run.

    python tests/golden/make.py

Run it once, when a version is released, and commit the folder. Later versions must read the files for ever, which
``tests/test_golden.py`` checks. Never write a folder that is already committed again.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

import tinygpt
from tinygpt import BigramLanguageModel, GPTConfig, LanguageModel, Sampler, TokenDataset, Trainer, TrainerConfig
from tinygpt.models.config import LAYOUTS

TEXT = "to be, or not to be: that is the question. " * 12
SIZES: dict[str, Any] = {"block_size": 8, "n_layer": 1, "n_head": 2, "n_embd": 8, "dropout": 0.0}
SETTINGS: dict[str, Any] = {"max_iters": 6, "batch_size": 4, "eval_interval": 2, "preview_tokens": 4, "device": "cpu"}


def data() -> TokenDataset:
    """Return the corpus of all golden files."""
    return TokenDataset(TEXT)


def models() -> dict[str, LanguageModel]:
    """Return a model of each kind, before training."""
    size = data().vocab_size
    bigram = BigramLanguageModel(size)
    with torch.no_grad():
        bigram.table.weight.copy_(torch.linspace(-1, 1, size * size).view(size, size))
    return {
        "bigram": bigram,
        **{name: GPTConfig(vocab_size=size, layout=name, **SIZES).build(seed=0) for name in LAYOUTS},
    }


def trainer(model: LanguageModel, run_dir: Path | None = None) -> Trainer:
    """Return the trainer of a golden run."""
    return Trainer(model, data(), TrainerConfig(precision="fp32", **SETTINGS), run_dir=run_dir)


def answers(sampler: Sampler) -> dict[str, Any]:
    """Return what a model must still compute in later versions."""
    return {
        "scores": sampler.score("to be or not").tolist(),
        "greedy": sampler.generate("to be", max_new_tokens=12, temperature=0),
        "drawn": sampler.generate("to be", max_new_tokens=12, seed=7),
    }


def main() -> None:
    """Write the folder of the present version."""
    folder = Path(__file__).parent / tinygpt.__version__
    folder.mkdir()  # fails if it exists: golden files are written once
    expected: dict[str, Any] = {}
    for name, model in models().items():
        run = trainer(model)
        run.fit(progress=False)
        run.sampler().save(folder / f"{name}.safetensors")
        expected[name] = answers(run.sampler())
    with tempfile.TemporaryDirectory() as run_dir:
        cut = trainer(models()["modern"], Path(run_dir))
        for step in cut:
            if step.number == 4:
                break
        shutil.copy(max(Path(run_dir).glob("step-*")), folder)
        expected["run"] = cut.fit(progress=False).losses
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
