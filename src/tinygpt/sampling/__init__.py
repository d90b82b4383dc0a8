"""Text from a model: the :class:`Sampler` and its filters."""

from tinygpt.sampling.choices import Alternative, Choice
from tinygpt.sampling.filters import draw, keep_min_p, keep_top_k, keep_top_p
from tinygpt.sampling.sampler import Sampler
from tinygpt.sampling.steering import allow_only, bias, forbid, penalise_repetition

__all__ = [
    "Alternative",
    "Choice",
    "Sampler",
    "allow_only",
    "bias",
    "draw",
    "forbid",
    "keep_min_p",
    "keep_top_k",
    "keep_top_p",
    "penalise_repetition",
]
