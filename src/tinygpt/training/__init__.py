"""Training: the settings, the loop, its record, and several models side by side."""

from typing import TYPE_CHECKING

from tinygpt.lazy import lazy_names

if TYPE_CHECKING:
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

if not TYPE_CHECKING:  # a type checker should report unknown names
    __getattr__, __dir__ = lazy_names(
        __name__,
        baseline=["bigram_loss"],
        comparison=["Comparison", "Contender", "compare"],
        config=["TrainerConfig"],
        evaluation=["evaluate"],
        history=["Evaluation", "History", "Loss"],
        step=["Step", "plain_loop"],
        trainer=["Trainer"],
    )
