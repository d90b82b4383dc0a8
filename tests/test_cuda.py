"""What holds on a CPU holds on a GPU. These tests are skipped where PyTorch sees none."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import DATA, TOKENIZER, make_gpt

import tinygpt
from tinygpt import MixtureLanguageModel, NGramLanguageModel, Sampler, Trainer, TrainerConfig
from tinygpt.models import LanguageModel
from tinygpt.runtime import choose_precision
from tinygpt.views import read

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of NVIDIA")

LAYOUTS = pytest.mark.parametrize("layout", ["notebook", "gpt2", "modern"])
SETTINGS: dict[str, Any] = {"batch_size": 8, "eval_interval": 10, "eval_iters": 2, "preview_tokens": 0}


def make_trainer(directory: Path | None = None, *, layout: Any = "modern", **changes: Any) -> Trainer:
    torch.set_default_dtype(torch.float32)  # as users have it
    model = make_gpt(layout, dropout=0.1, n_embd=32)
    return Trainer(model, DATA, TrainerConfig(**SETTINGS | {"max_iters": 20} | changes), run_dir=directory)


def digest(model: LanguageModel) -> str:
    sha = hashlib.sha256()
    for weight in model.state_dict().values():
        sha.update(weight.cpu().numpy().tobytes())
    return sha.hexdigest()


@LAYOUTS
def test_logits_are_those_of_the_cpu(layout: Any) -> None:
    model, idx = make_gpt(layout), DATA.batch("train", step=0, seed=0, batch_size=3, block_size=8)[0]
    expected = model(idx).logits
    assert torch.allclose(model.cuda()(idx.cuda()).logits.cpu(), expected, rtol=0, atol=1e-10)


@LAYOUTS
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_is_that_of_the_cpu(layout: Any, optimizer: str) -> None:
    models = []
    for device in ("cpu", "cuda"):
        torch.set_default_dtype(torch.float64)
        models.append(make_gpt(layout))
        how = TrainerConfig(**SETTINGS, max_iters=3, optimizer=optimizer, device=device)  # type: ignore[arg-type]
        Trainer(models[-1], DATA, how).fit(progress=False)
    ours, theirs = (torch.cat([p.detach().cpu().flatten() for p in model.parameters()]) for model in models)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("precision", "compile"), [("fp32", False), ("fp32", True), ("bf16", True), ("fp16", False)])
def test_training_lowers_the_loss(precision: str, compile: bool) -> None:
    trainer = make_trainer(precision=precision, compile=compile, max_iters=40)
    history = trainer.fit(progress=False)
    assert trainer.device.type == "cuda"
    assert history.last.val_loss < history.evaluations[0].val_loss - 0.3


def test_a_gpu_with_bf16_uses_it() -> None:
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    model = make_gpt().float()
    expected = torch.bfloat16 if native else torch.float16
    assert choose_precision("auto", torch.device("cuda"), model) == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adamw"},
        {"optimizer": "muon"},
        {"optimizer": "muon", "precision": "fp16"},
        {"optimizer": "muon", "accumulation": 4},
        {"optimizer": "muon", "accumulation": 4, "compile": True},
    ],
)
def test_a_resumed_run_is_the_same_run(settings: dict[str, Any], tmp_path: Path) -> None:
    """With dropout, in mixed precision: the same bits as a run that was not interrupted."""
    whole = make_trainer(**settings)
    whole.fit(progress=False)
    first = make_trainer(tmp_path, **settings)
    for step in first:
        if step.number == 10:
            first.save()
            break
    again = make_trainer(tmp_path, **settings)
    again.fit(progress=False, resume=True)
    assert digest(again.model) == digest(whole.model)


def test_a_run_leaves_the_generators_of_the_gpu_alone() -> None:
    trainer = make_trainer(max_iters=3)
    before = torch.cuda.get_rng_state()
    trainer.fit(progress=False)
    trainer.sampler().generate("the", max_new_tokens=5)
    assert torch.equal(torch.cuda.get_rng_state(), before)


@LAYOUTS
def test_text_is_that_of_the_cpu(layout: Any) -> None:
    """With a cache and without, past the window, in float64."""
    model = make_gpt(layout)
    expected = Sampler(model, TOKENIZER).generate(["the ", "q"], max_new_tokens=40, seed=3)
    sampler = Sampler(model.cuda(), TOKENIZER)
    assert sampler.generate(["the ", "q"], max_new_tokens=40, seed=3) == expected
    assert Sampler(model, TOKENIZER, stride=1).generate("the ", max_new_tokens=20, temperature=0)
    assert torch.allclose(sampler.score("the quick brown"), Sampler(model.cpu(), TOKENIZER).score("the quick brown"))


def test_compiled_sampling_writes_the_same() -> None:
    model = make_gpt("modern").cuda()
    texts = [
        Sampler(model, TOKENIZER, compile=how).generate("the ", max_new_tokens=20, seed=1) for how in (False, True)
    ]
    assert texts[0] == texts[1]


def test_a_file_is_that_of_the_cpu(tmp_path: Path) -> None:
    model = make_gpt("modern")
    tinygpt.save(tmp_path / "cpu", model, TOKENIZER)
    tinygpt.save(tmp_path / "gpu", model.cuda(), TOKENIZER)
    assert (tmp_path / "cpu").read_bytes() == (tmp_path / "gpu").read_bytes()
    loaded, _ = tinygpt.load(tmp_path / "gpu")
    assert loaded.device.type == "cpu"


def test_tables_mixtures_and_views_work_there() -> None:
    table = NGramLanguageModel.count(DATA.train, vocab_size=DATA.vocab_size, order=3)
    mixture = MixtureLanguageModel([make_gpt(), table])
    expected = tinygpt.evaluate(mixture, DATA).nats
    assert tinygpt.evaluate(mixture.cuda(), DATA).nats == pytest.approx(expected, abs=1e-9)
    reading = read(make_gpt("modern").cuda(), TOKENIZER, "the quick")
    assert sum(reading.bits) == pytest.approx(sum(read(make_gpt("modern"), TOKENIZER, "the quick").bits))


PROGRAM = """
import hashlib, sys, torch
from tinygpt import GPTConfig, TokenDataset, Trainer, TrainerConfig
data = TokenDataset("the quick brown fox jumps over the lazy dog. " * 12)
config = GPTConfig.modern(vocab_size=data.vocab_size, block_size=8, n_layer=2, n_head=2, n_embd=32, dropout=0.1)
how = dict(max_iters=6, batch_size=8, accumulation=2, eval_interval=3, preview_tokens=0)
trainer = Trainer(config.build(seed=0), data, TrainerConfig(**how, shard=sys.argv[1] == "shard"))
trainer.fit(progress=False)
sha = hashlib.sha256()
for weight in trainer.model.state_dict().values():
    weight = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
    sha.update(weight.cpu().numpy().tobytes())
print("SHA", sha.hexdigest(), trainer.device, round(trainer.history.last.val_loss, 6))
"""


def launched(path: Path, argument: str, *launcher: str) -> list[str]:
    """Return what the program above prints: the digest of the weights, the device, the loss."""
    path.write_text(PROGRAM, encoding="utf-8")
    words = [sys.executable, *launcher, str(path), argument]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    output = subprocess.run(words, check=True, capture_output=True, text=True, timeout=120, env=environment).stdout
    return output.rsplit("SHA ", 1)[1].split()


def test_a_process_of_torchrun_trains_as_one_without(tmp_path: Path) -> None:
    """With NCCL, on one GPU; sharded, the same up to rounding."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1")
    alone = launched(tmp_path / "train.py", "whole")
    assert launched(tmp_path / "train.py", "whole", *torchrun) == alone
    sharded = launched(tmp_path / "train.py", "shard", *torchrun)
    assert float(sharded[-1]) == pytest.approx(float(alone[-1]), abs=0.02)
