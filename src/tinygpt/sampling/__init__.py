"""Text from a model: the :class:`Sampler` and its filters."""

from tinygpt.sampling.filters import draw, keep_min_p, keep_top_k, keep_top_p
from tinygpt.sampling.sampler import Sampler

__all__ = ["Sampler", "draw", "keep_min_p", "keep_top_k", "keep_top_p"]
