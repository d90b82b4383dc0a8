"""Text from a model: pure functions that decide which ids may come next, and the sampler that draws them."""

from tinygpt.sampling.filters import draw, keep_min_p, keep_top_k, keep_top_p
from tinygpt.sampling.sampler import Sampler

__all__ = ["Sampler", "draw", "keep_min_p", "keep_top_k", "keep_top_p"]
