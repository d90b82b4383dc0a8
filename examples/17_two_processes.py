"""Train in two processes, and get the same weights as in one.

Run:   python examples/17_two_processes.py
Takes: about half a minute on two cores.

The program trains alone, and then starts itself again by torchrun, in two processes. Each of them has one of the two
micro-batches of a step. The losses are equal to the last digit.
"""

import os
import subprocess
import sys

import torch

import tinygpt
from tinygpt import GPTConfig, TokenDataset, Trainer, TrainerConfig

torch.set_num_threads(1)  # in each process: the last digits depend on it
data = TokenDataset(tinygpt.shakespeare()[:100_000])
config = GPTConfig.modern(vocab_size=data.vocab_size, block_size=32, n_layer=2, n_head=2, n_embd=64)
settings = TrainerConfig(max_iters=50, batch_size=16, accumulation=2, eval_iters=8, preview_tokens=0)
trainer = Trainer(config.build(seed=0), data, settings)
history = trainer.fit(progress=False)

if "RANK" not in os.environ:
    print("1 process:   validation loss", history.last.val_loss, flush=True)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*torchrun, __file__], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
elif os.environ["RANK"] == "0":
    print("2 processes: validation loss", history.last.val_loss, flush=True)
