"""Training: the settings, the loop, its record, and several models side by side."""

from tinygpt.training.baseline import bigram_loss
from tinygpt.training.comparison import Comparison, Contender, compare
from tinygpt.training.config import TrainerConfig
from tinygpt.training.evaluation import evaluate
from tinygpt.training.history import Evaluation, History, Loss
from tinygpt.training.step import Step, plain_loop
from tinygpt.training.trainer import Trainer

__all__ = [
    "Comparison",
    "Contender",
    "Evaluation",
    "History",
    "Loss",
    "Step",
    "Trainer",
    "TrainerConfig",
    "bigram_loss",
    "compare",
    "evaluate",
    "plain_loop",
]
