"""The pace of a run: how many steps fit into ``max_seconds``."""

import time
from statistics import median

from tinygpt.training.config import TrainerConfig
from tinygpt.training.step import Step


class Pace:
    """Measures the speed of a run, to decide how many steps fit into ``max_seconds``.

    Args:
        config: The settings of the run.

    Attributes:
        evaluation: Seconds that the last evaluation took.
    """

    def __init__(self, config: TrainerConfig) -> None:
        self.evaluation = 0.0
        self._config = config
        self._started = 0.0
        self._steps: list[float] = []

    def start(self, *, spent: float) -> None:
        """Start the clock at the seconds that a resumed run has spent; later calls change nothing."""
        self._started = self._started or time.perf_counter() - spent

    def plan(self, step: Step) -> int | None:
        """Return the number of steps of the run, or None while the speed is still unknown.

        It is known after ten steps and a twentieth of the time, or after a quarter of the time.
        """
        config = self._config
        if config.max_seconds is None:
            return None
        self._steps.append(step.seconds)
        elapsed = time.perf_counter() - self._started
        is_short = len(self._steps) < 10 or elapsed < 0.05 * config.max_seconds
        if is_short and elapsed < 0.25 * config.max_seconds:
            return None
        # The median, because the first steps compile and take their memory from the system.
        each = median(self._steps) + self.evaluation / config.eval_interval
        left = config.max_seconds - elapsed - self.evaluation
        return min(config.max_iters, step.number + max(0, int(left / each)))
