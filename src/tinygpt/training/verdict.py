"""The verdict on a run: a finding from its losses, and advice."""

import math
from collections.abc import Sequence
from statistics import fmean, median

from tinygpt.training.history import Evaluation, History

_MATTERS = 0.01  # nats: smaller differences, about one percent of perplexity, do not count
_GAIN = 0.1  # nats: a larger gain counts, however noisy the losses are
_ABOUT = 0.05  # of the difference between the even guess and the bigram: a loss this near to one is no better
_RISE = 1.0  # nats: noise between batches is a few tenths, so a larger rise is not noise


def judge(history: History) -> str:
    """Return :attr:`History.verdict`."""
    best, last = history.best, history.last
    said = f"best validation loss {best.val_loss:.4f} at step {best.step:,}"
    said += ", the last" if best is last else f"; the last {last.val_loss:.4f}"
    named = {"even guess": history.even_guess, "bigram": history.bigram}
    known = ", ".join(f"{name} {loss:.3f}" for name, loss in named.items() if loss is not None)
    said += f" ({known})" if known else ""
    ends = {
        "early": f"stopped early after step {last.step:,}: ",
        "interrupted": f"interrupted after step {last.step:,}: ",
    }
    return f"{ends.get(history.stopped, '')}{said}: {_finding(history)}"


def _finding(history: History) -> str:
    """Return the first finding that holds, with advice."""
    best, first, last = history.best, history.evaluations[0], history.last
    counts = max(_MATTERS, 2 * _spread([evaluation.val_loss for evaluation in history.evaluations]))
    if len(history.evaluations) == 1:
        if last.step == 0 and not history.losses:
            return "no step taken yet; call trainer.fit()"
        return "no other evaluation to compare with; use a lower eval_interval"
    if rise := _rise(history):
        step, low, high = rise
        rose = f"the training loss rose from {low:.2f} to {high:.2f}"
        return f"diverged at step {step:,}, {rose}; use a lower learning rate"
    if _is_stuck(history):
        return "stuck from early on, worse than a bigram; use a lower learning rate, or more steps"
    worse = last.val_loss > best.val_loss + counts
    if worse and last.train_loss < best.train_loss:
        return f"overfitting from step {best.step:,}; keep those weights, or use more text or more dropout"
    if worse:
        return f"got worse from step {best.step:,}, and so did the training loss; use a lower learning rate"
    if history.even_guess is not None and best.val_loss > history.even_guess - _about(history):
        return "nothing was learnt beyond an even guess; use a higher learning rate, more steps, or other data"
    if first.val_loss - best.val_loss < counts:
        return (
            "nothing was learnt since the first evaluation; use a higher learning rate, or stop: the model may be done"
        )
    hint = ". The model is worse than a bigram, which counts pairs; use another learning rate or more steps"
    return _course(history, counts) + (hint if _is_poor(history) else "")


def _course(history: History, counts: float) -> str:
    """Return whether the loss still falls, with the learning rate at the end.

    A flat end at a low learning rate shows nothing. A run has converged only if it gained nothing since the learning
    rate was high.
    """
    last, peak = history.last, _peak(history)
    earlier = [each for each in history.evaluations if each.step <= 0.75 * last.step] or history.evaluations[:1]
    since = ([each for each in earlier if _is_high(history, each)] or earlier)[-1]
    little = min(counts, _GAIN)
    if since.val_loss - last.val_loss < little:
        return f"converged, a gain of less than {little:.2f} nats since step {since.step:,}"
    if last.schedule is None:
        return "still falling; train longer"
    if _is_high(history, last):
        return "still falling at full learning rate; train longer"
    share = last.schedule / peak
    late = ([each for each in history.evaluations if each.step <= 0.9 * last.step] or earlier)[-1]
    state = "flat because" if late.val_loss - last.val_loss < counts else "still falling while"
    rate = "reached zero" if share < 0.02 else f"fell to {share:.0%} of its peak"
    return f"{state} the learning rate {rate}, not converged; more steps with a longer schedule may still help"


def _peak(history: History) -> float:
    """Return the highest learning rate of the evaluations; two alone are both far from the peak, which is 1."""
    shares = [each.schedule or 0.0 for each in history.evaluations]
    return max(shares) if len(shares) > 2 else 1.0


def _is_high(history: History, evaluation: Evaluation) -> bool:
    """Return whether the learning rate was half its peak, or is unknown."""
    return evaluation.schedule is None or evaluation.schedule >= _peak(history) / 2


def _is_stuck(history: History) -> bool:
    """Return whether the loss fell at once and then stayed.

    It is worse than a bigram then, and the learning rate is high. It stayed if it fell, from the second quarter of that
    time to its second half, by less than a fifth of its fall before, and by less than a fifth of its distance to the
    bigram.
    """
    if history.bigram is None or not _is_poor(history):
        return False
    high = max((each.step for each in history.evaluations if _is_high(history, each)), default=history.last.step)
    count = high // history.steps_per_loss
    early, later = history.losses[count // 4 : count // 2], history.losses[count // 2 : count]
    if len(early) < 8:
        return False
    before, still = history.evaluations[0].train_loss - fmean(early), fmean(early) - history.bigram
    return fmean(early) - fmean(later) < 0.2 * min(before, still)


def _about(history: History) -> float:
    """Return the distance in nats within which two losses count as equal."""
    if history.even_guess is None or history.bigram is None:
        return _MATTERS
    return max(_MATTERS, _ABOUT * (history.even_guess - history.bigram))


def _is_poor(history: History) -> bool:
    """Return whether the best loss is worse than that of a bigram."""
    return history.bigram is not None and history.best.val_loss > history.bigram + _about(history)


def _rise(history: History) -> tuple[int, float, float] | None:
    """Return where the training loss rose, from what and to what, or None.

    A rise counts if the loss did not come back, or the model is still worse than a bigram.
    """
    is_poor = _is_poor(history)
    evaluated = [(each.step, each.train_loss) for each in history.evaluations]
    width = max(1, min(8, len(history.losses) // 4), len(history.losses) // 256)  # single batches are noisy
    batches = evaluated[:1] + [
        (start * history.steps_per_loss + 1, fmean(history.losses[start : start + width]))
        for start in range(0, len(history.losses) - width + 1, width)
    ]
    for points in (batches, evaluated):
        low, end = math.inf, points[-1][1]
        for step, loss in points:
            if not loss <= low + _RISE and (is_poor or not end <= low):
                return step, low, max(each for at, each in points if at >= step)
            low = min(low, loss)
    return None


def _spread(losses: Sequence[float]) -> float:
    """Return the standard deviation of the later half around its trend.

    It comes from second differences, which are zero on a straight line, by their median, which a bend hardly moves.
    With too few losses it is 0.
    """
    late = losses[len(losses) // 2 :]
    bends = [abs(a - 2 * b + c) for a, b, c in zip(late, late[1:], late[2:], strict=False)]
    return median(bends) / (0.6745 * math.sqrt(6)) if len(bends) >= 4 else 0.0
