"""What a run shows while it goes on."""

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
        self._shown = len(history.evaluations)
        self._bar = tqdm(total=total, initial=done, disable=not is_shown, unit="step")

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show_step(self, step: Step) -> None:
        """Move the bar on by a step, after its evaluation if it has one."""
        self._bar.update()
        self.show_evaluations()
        val_loss = self._history.last.val_loss
        speed = f"{step.tokens_per_second:,.0f} tokens/s"
        self._bar.set_postfix_str(f"loss {step.loss:.3f}, val {val_loss:.3f}, {speed}", refresh=False)

    def show_evaluations(self) -> None:
        """Show the evaluations that are new."""
        for evaluation in self._history.evaluations[self._shown :]:
            line = f"step {evaluation.step:>6,}: train {evaluation.train_loss:.4f}, val {evaluation.val_loss:.4f}"
            self.write(line + (f"\n{evaluation.sample.strip()}\n" if evaluation.sample else ""))
        self._shown = len(self._history.evaluations)

    def write(self, text: str) -> None:
        """Write above the bar."""
        if not self._bar.disable:
            self._bar.write(text)
