"""Text from a model: the :class:`Sampler`, and the filters that it draws through."""

from tinygpt.sampling.filters import draw, keep_min_p, keep_top_k, keep_top_p
from tinygpt.sampling.sampler import Sampler

__all__ = ["Sampler", "draw", "keep_min_p", "keep_top_k", "keep_top_p"]
