"""What every test and doctest finds in place."""

import pytest
import torch

import tinygpt


@pytest.fixture(autouse=True)
def _names_of_doctests(doctest_namespace: dict[str, object]) -> None:
    """Give doctests the public names, ``torch`` and ``nn``, so that an example shows its point and nothing else."""
    for room in (tinygpt, tinygpt.layers):
        doctest_namespace.update({name: getattr(room, name) for name in room.__all__})
    doctest_namespace.update(torch=torch, nn=torch.nn)
