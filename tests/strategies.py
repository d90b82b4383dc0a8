"""What the property tests share: tolerances, and weights that matter."""

from typing import Any

import torch

TOLERANCE: Any = {"rtol": 0.0, "atol": 1e-10}


def randomised(module: torch.nn.Module, seed: int = 0, std: float = 0.5) -> torch.nn.Module:
    """Give every parameter a value that matters: nothing starts at zero, no weight is too small to be seen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, std, generator=generator)
    return module
