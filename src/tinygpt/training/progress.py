"""What a run shows while it goes on."""

from types import TracebackType

from tqdm import tqdm

from tinygpt.training.history import History
from tinygpt.training.step import Step


class Progress:
    """A bar with losses, speed and time left; above it, the evaluations with what the model writes.

    Args:
        history: What happens in the run. What has happened so far is not shown again.
        total: Steps in all.
        done: Steps taken so far.
        is_shown: Whether to show anything.
    """

    def __init__(self, history: History, total: int, done: int, *, is_shown: bool) -> None:
        self._history = history
        self._said = len(history.evaluations)
        self._bar = tqdm(total=total, initial=done, disable=not is_shown, unit="step")

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._bar.close()

    def step(self, step: Step) -> None:
        """Move the bar on by a step, after its evaluation if it has one."""
        self._bar.update()
        self.evaluations()
        val_loss = self._history.last.val_loss
        speed = f"{step.tokens_per_second:,.0f} tokens/s"
        self._bar.set_postfix_str(f"loss {step.loss:.3f}, val {val_loss:.3f}, {speed}", refresh=False)

    def evaluations(self) -> None:
        """Show the evaluations that are new."""
        for evaluation in self._history.evaluations[self._said :]:
            line = f"step {evaluation.step:>6,}: train {evaluation.train_loss:.4f}, val {evaluation.val_loss:.4f}"
            self.say(line + (f"\n{evaluation.sample.strip()}\n" if evaluation.sample else ""))
        self._said = len(self._history.evaluations)

    def say(self, text: str) -> None:
        """Write above the bar."""
        if not self._bar.disable:
            self._bar.write(text)
