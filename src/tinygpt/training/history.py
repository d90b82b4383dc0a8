"""The record of a run: its evaluations and the losses of its steps."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from tinygpt.errors import DataError
from tinygpt.files import check_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LOSSES = 1 << 15  # in a history, and so in a checkpoint: 256 KiB


class Loss(NamedTuple):
    """A cross-entropy loss in three units.

    Attributes:
        nats: Mean negative log-probability of a token.
        bits_per_character: The same in bits per character of the text.
        perplexity: ``exp(nats)``, the number of equally likely tokens with the same loss.
    """

    nats: float
    bits_per_character: float
    perplexity: float

    @classmethod
    def from_nats(cls, nats: float, characters_per_id: float = 1.0) -> "Loss":
        """Convert a loss in nats per token.

        Example:
            >>> Loss.from_nats(math.log(8))
            Loss(nats=2.0794, bits_per_character=3.0000, perplexity=8.000)
        """
        perplexity = math.exp(nats) if nats < 700 else math.inf
        return cls(nats, nats / math.log(2) / characters_per_id, round(perplexity, 9))

    def __repr__(self) -> str:
        nats, bits, perplexity = self
        return f"Loss(nats={nats:.4f}, bits_per_character={bits:.4f}, perplexity={perplexity:.3f})"


@dataclass(frozen=True)
class Evaluation:
    """The losses of a model after a number of steps.

    Attributes:
        step: Number of steps taken.
        train_loss: Loss in nats on windows of the training split.
        val_loss: Loss in nats on the validation split.
        seconds: Time of all training steps so far.
        tokens_per_second: Mean speed of training so far; 0 before the first step.
        sample: A sample of the model, empty if none was asked for.
        schedule: Learning rate of the last step, as a share of the peak; 0 before the first step, None if unknown.
    """

    step: int
    train_loss: float
    val_loss: float
    seconds: float
    tokens_per_second: float
    sample: str = ""
    schedule: float | None = None


@dataclass
class History:
    """The record of a run, as :meth:`Trainer.fit` returns it.

    Printed, it is one line. A notebook shows the curve, the losses at the start, the best and the end, and the verdict.

    Attributes:
        evaluations: All evaluations, in order.
        losses: The loss of each training batch, in nats. After 32,768 steps each entry is the mean over
            ``steps_per_loss`` steps in a row, so the length stays below that.
        stopped: Reason why the run ended before its last step: ``"early"``, ``"interrupted"``, or empty.
        even_guess: The loss of guessing evenly among all ids, ``ln V`` nats; None if unknown.
        bigram: The loss of :func:`~tinygpt.training.bigram_loss` on the same data, in nats; None if unknown.
        steps_per_loss: Number of steps per entry of ``losses``, a power of 2.
        pending: The losses of the latest steps, fewer than ``steps_per_loss``, that have no entry yet.

    Example:
        >>> history = History([Evaluation(0, 4.2, 4.2, 0, 0), Evaluation(100, 1.4, 1.5, 9, 1e4)])
        >>> history.best.step
        100
        >>> print(history.verdict)
        best validation loss 1.5000 at step 100, the last: still falling; train longer
    """

    evaluations: list[Evaluation] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    stopped: str = ""
    even_guess: float | None = None
    bigram: float | None = None
    steps_per_loss: int = 1
    pending: list[float] = field(default_factory=list)

    def add_loss(self, loss: float) -> None:
        """Append the loss of a step, in nats.

        If ``losses`` is full, it is halved first. The entries depend on the losses in their order alone, so a resumed
        run has those of an uninterrupted one.
        """
        if len(self.losses) == MOST_LOSSES and not self.pending:
            self.losses[:] = [(a + b) / 2 for a, b in zip(self.losses[::2], self.losses[1::2], strict=True)]
            self.steps_per_loss *= 2
        self.pending.append(loss)
        if len(self.pending) == self.steps_per_loss:
            self.losses.append(fmean(self.pending))
            self.pending.clear()

    @property
    def best(self) -> Evaluation:
        """The evaluation with the lowest validation loss, the first of equal ones."""
        return min(self._measured(), key=lambda each: math.inf if math.isnan(each.val_loss) else each.val_loss)

    @property
    def last(self) -> Evaluation:
        """The latest evaluation."""
        return self._measured()[-1]

    @property
    def verdict(self) -> str:
        """The result of the run and advice, in a sentence or two.

        The best loss stands beside the even guess and the bigram. The first finding that holds is named:

        ======================  ==========================================================================
        diverged                the training loss rose by more than 1 nat and did not come back
        stuck                   worse than a bigram, with hardly a gain while the learning rate was high
        overfitting             the validation loss rose from its best while the training loss fell
        got worse               both losses rose
        nothing was learnt      the best loss is about the even guess, or no better than the first
        converged               no gain since the learning rate was high, nor in the last quarter
        flat, or still falling  all other runs, with the learning rate at the end
        ======================  ==========================================================================

        A difference counts from 0.01 nats, or from twice the spread of the last evaluations if that is larger. A loss
        is about the even guess, or about the bigram, within a twentieth of the difference of the two.
        """
        from tinygpt.training.verdict import judge  # which imports this file

        return judge(self)

    def __repr__(self) -> str:
        if not self.evaluations:
            return "History(no evaluations)"
        count, best, last = len(self.evaluations), self.best, self.last
        loss = f"best val_loss {best.val_loss:.4f} at step {best.step:,}"
        return f"History({last.step:,} steps, {count} evaluations, {loss}, {last.seconds:.1f} seconds)"

    def _repr_html_(self) -> str:
        """Return the losses as a curve and a table, and the verdict, for a notebook."""
        if not self.evaluations:
            return f"<pre>{escape(repr(self))}</pre>"
        train = [(each.step, each.train_loss) for each in self.evaluations if math.isfinite(each.train_loss)]
        val = [(each.step, each.val_loss) for each in self.evaluations if math.isfinite(each.val_loss)]
        rows = [("", "step", "training", "validation")]
        for name, each in (("first", self.evaluations[0]), ("best", self.best), ("last", self.last)):
            rows.append((name, f"{each.step:,}", f"{each.train_loss:.4f}", f"{each.val_loss:.4f}"))
        cells = ("".join(f"<td>{cell}</td>" for cell in row) for row in rows)
        table = f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"
        return f"{_curves(train, val)}{table}<p>{escape(self.verdict)}</p>"

    def plot(self, path: str | Path | None = None, *, ax: "Axes | None" = None) -> "Figure":
        """Draw the losses over the steps: validation solid, training dashed.

        The even guess and the bigram are lines to compare with. Needs matplotlib: ``pip install "tinygpt[plots]"``.
        :func:`~tinygpt.views.plot_runs` draws several runs from their directories.

        Args:
            path: A file to save the figure to, or None.
            ax: Axes to draw into; by default those of a new figure.

        Raises:
            DataError: If there is no evaluation yet.
            InputTypeError: If ``path`` is neither a str nor a path.
            ConfigError: If ``path`` cannot be the name of a file.
        """
        from tinygpt.views.figure import Figure
        from tinygpt.views.plots import Curves, draw_losses

        path = None if path is None else check_path("path", path)
        evaluations, best = self._measured(), self.best
        figure: Any = Figure(figsize=(7, 4), layout="constrained") if ax is None else ax.figure
        axes = figure.subplots() if ax is None else ax
        each, count = self.steps_per_loss, len(self.losses)
        middles = [(index + 0.5) * each + 0.5 for index in range(count)]  # of the steps of each entry
        label = "each batch" if each == 1 else f"mean of {each} batches"
        axes.plot(middles, self.losses, color="0.85", linewidth=0.8, label=label)
        floors = {"even guess": self.even_guess, "bigram": self.bigram}
        curves = Curves(
            train=[(evaluation.step, evaluation.train_loss) for evaluation in evaluations],
            val=[(evaluation.step, evaluation.val_loss) for evaluation in evaluations],
            floors={name: loss for name, loss in floors.items() if loss is not None},
        )
        draw_losses(axes, {"": curves})
        if best is not self.last:
            axes.annotate(
                f"best {best.val_loss:.3f}",
                (best.step, best.val_loss),
                xytext=(0, -24),
                textcoords="offset points",
                ha="center",
                arrowprops={"arrowstyle": "-", "color": "0.5"},
            )
        axes.set_xlabel(f"step; validation solid, training dashed, {label} grey")
        axes.set_title(textwrap.fill(self.verdict, 90), fontsize=9)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure

    def _measured(self) -> list[Evaluation]:
        if not self.evaluations:
            raise DataError("the history must have an evaluation, got none; call trainer.fit() first")
        return self.evaluations


def steps_per_loss(steps: int) -> int:
    """Return :attr:`History.steps_per_loss` after a number of steps.

    Example:
        >>> steps_per_loss(32_768), steps_per_loss(32_769)
        (1, 2)
    """
    each = 1
    while steps > MOST_LOSSES * each:
        each *= 2
    return each


def _curves(train: Sequence[tuple[int, float]], val: Sequence[tuple[int, float]]) -> str:
    """Return an SVG image of two losses over the steps."""
    steps, losses = zip(*train, *val, strict=True) if train or val else ((0,), (0.0,))
    first, low = min(steps), min(losses)
    wide, high = max(steps) - first or 1, max(losses) - low or 1.0

    def line(points: Sequence[tuple[int, float]], style: str) -> str:
        corners = (f"{60 + 400 * (x - first) / wide:.1f},{140 - 120 * (y - low) / high:.1f}" for x, y in points)
        return f'<polyline fill="none" {style} points="{" ".join(corners)}"/>'

    labels = [
        (52, 24, "end", f"{max(losses):.3f}"),
        (52, 144, "end", f"{low:.3f}"),
        (60, 158, "start", f"step {first:,}"),
        (460, 158, "end", f"{max(steps):,}"),
        (460, 12, "end", "loss in nats: validation, dashed: training"),
    ]
    texts = (f'<text x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>' for x, y, anchor, text in labels)
    dashed, solid = 'stroke="#ff7f0e" stroke-dasharray="4"', 'stroke="#1f77b4" stroke-width="2"'
    return (
        '<svg viewBox="0 0 480 164" width="480" height="164" fill="currentColor" font-size="11">'
        f"{line(train, dashed)}{line(val, solid)}{''.join(texts)}</svg>"
    )
