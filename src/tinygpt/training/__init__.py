"""Training: the settings, the loop, its record, and several models side by side."""

from typing import TYPE_CHECKING

from tinygpt.lazy import lazy_names

if TYPE_CHECKING:
    from tinygpt.training.advice import Advice, advise
    from tinygpt.training.baseline import bigram_loss
    from tinygpt.training.comparison import Comparison, Contender, compare
    from tinygpt.training.config import TrainerConfig
    from tinygpt.training.evaluation import evaluate
    from tinygpt.training.history import Evaluation, History, Loss
    from tinygpt.training.planning import Plan, plan
    from tinygpt.training.runs import train
    from tinygpt.training.step import Step, plain_loop
    from tinygpt.training.trainer import Trainer

__all__ = [
    "Advice",
    "Comparison",
    "Contender",
    "Evaluation",
    "History",
    "Loss",
    "Plan",
    "Step",
    "Trainer",
    "TrainerConfig",
    "advise",
    "bigram_loss",
    "compare",
    "evaluate",
    "plain_loop",
    "plan",
    "train",
]

if not TYPE_CHECKING:  # a type checker should report unknown names
    __getattr__, __dir__ = lazy_names(
        __name__,
        advice=["Advice", "advise"],
        baseline=["bigram_loss"],
        comparison=["Comparison", "Contender", "compare"],
        config=["TrainerConfig"],
        evaluation=["evaluate"],
        history=["Evaluation", "History", "Loss"],
        planning=["Plan", "plan"],
        runs=["train"],
        step=["Step", "plain_loop"],
        trainer=["Trainer"],
    )
