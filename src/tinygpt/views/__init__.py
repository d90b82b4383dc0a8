"""See inside a model: how it reads a text, what its heads do, and how its losses fell."""

from typing import TYPE_CHECKING

from tinygpt.lazy import lazy_names

if TYPE_CHECKING:
    from tinygpt.views.heads import HeadScores, head_scores
    from tinygpt.views.page import Html
    from tinygpt.views.plots import plot_embedding, plot_head, plot_runs
    from tinygpt.views.reading import Reading, read

__all__ = ["HeadScores", "Html", "Reading", "head_scores", "plot_embedding", "plot_head", "plot_runs", "read"]

if not TYPE_CHECKING:  # a type checker should report unknown names
    __getattr__, __dir__ = lazy_names(
        __name__,
        heads=["HeadScores", "head_scores"],
        page=["Html"],
        plots=["plot_embedding", "plot_head", "plot_runs"],
        reading=["Reading", "read"],
    )
