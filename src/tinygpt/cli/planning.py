"""The verb that says beforehand what a training costs: plan."""

from typing import Annotated

from tyro.conf import OmitArgPrefixes, arg

from tinygpt.cli.reading import show
from tinygpt.cli.settings import PlannedModel, PlannedTraining
from tinygpt.models.config import GPTConfig
from tinygpt.training.config import TrainerConfig

_Number = Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="")]


def plan(
    *,
    model: OmitArgPrefixes[PlannedModel],
    trainer: OmitArgPrefixes[PlannedTraining] = PlannedTraining(),  # noqa: B008 # frozen
    devices: int = 1,
    memory: _Number = None,
    flops: _Number = None,
    bandwidth: _Number = None,
    utilisation: float = 0.4,
) -> int:
    """Say what a training costs, and whether it fits.

    Args:
        model: The model.
        trainer: The training.
        devices: Number of devices, one process each.
        memory: Bytes of each device, e.g. 80e9.
        flops: Peak floating-point operations per second of each device, e.g. 989e12. By default this machine is timed.
        bandwidth: Bytes per second that a device can send, e.g. 350e9.
        utilisation: Share of the peak that a training reaches.
    """
    import tinygpt

    costs = tinygpt.plan(
        GPTConfig(**vars(model)),
        TrainerConfig(**vars(trainer)),
        devices=devices,
        memory=memory,
        flops=flops,
        bandwidth=bandwidth,
        utilisation=utilisation,
    )
    show(f"{costs}\n")
    return 0
