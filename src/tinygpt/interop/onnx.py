"""Save a model for ONNX Runtime."""

import copy
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.export import Dim

from tinygpt.checkpoint import pack
from tinygpt.errors import ConfigError, cut, needs
from tinygpt.files import check_path
from tinygpt.interop.names import write_file
from tinygpt.models import LanguageModel
from tinygpt.models.inspection import check_model

_MOST_BYTES = 1 << 31  # of one file, since protobuf counts in 31 bits
_TOLERANCE = 1e-4  # relative to the largest logit


def save_onnx(path: str | os.PathLike[str], model: LanguageModel) -> None:
    """Save a model for ONNX Runtime, which runs it without PyTorch.

    The graph takes ``idx``, in int64, and returns ``logits``, in float32. It has no cache. Its metadata have the
    ``block_size``. A model without learned positions accepts longer inputs, which it was not trained on.

    If onnxruntime is installed, it must give the same logits, or nothing is written.

    Args:
        path: Where to write, by convention ``*.onnx``.
        model: Any model that ``torch.export`` accepts with free sizes, as those of tinygpt are.

    Shape:
        ``B T`` in and ``B T V`` out, for any ``B`` of at least 1 and ``T`` from 1 to ``block_size``.

    Raises:
        MissingExtraError: If onnx or onnxscript is not installed: ``pip install "tinygpt[onnx]"``.
        InputTypeError: If an argument has the wrong type.
        NonFiniteError: If a weight is NaN.
        ConfigError: If the model cannot be exported, needs more than 2 GiB, or gives other logits in ONNX Runtime.
        CheckpointSaveError: If the file cannot be written.

    Example:
        .. code-block:: python

            save_onnx("model.onnx", model)
            session = onnxruntime.InferenceSession("model.onnx")
            logits = session.run(None, {"idx": numpy.array([[3, 1, 4]])})[0]
    """
    target = check_path("path", path)
    check_model("model", model)
    weights, _ = pack(model, None)
    if (size := sum(4 * weight.numel() for weight in weights.values())) >= _MOST_BYTES:
        raise ConfigError(f"model must be smaller than 2 GiB for ONNX, got {size:,} bytes; use another format")
    with needs("save_onnx", extra="onnx"):
        import onnx  # noqa: F401 # torch.onnx uses both
        import onnxscript  # noqa: F401
    copied = copy.deepcopy(model).cpu().float().eval()
    raw = _graph(copied)
    _check_same(raw, copied)
    write_file(target, raw)


def _graph(model: LanguageModel) -> bytes:
    """Return the bytes of the graph of a model."""
    block = model.block_size
    sizes = {0: Dim("batch", min=1)}
    if block != 1:  # torch.export cannot free a size whose range is 1 alone
        sizes[1] = Dim("length", min=1, max=block)
    with torch.no_grad(), _quiet():
        try:
            program = torch.export.export(model, (_ids(model, 2, 5),), dynamic_shapes=(sizes,))
        except Exception as error:  # of many kinds, from any part of the model
            raise ConfigError(
                f"model must be accepted by torch.export with free sizes, got {cut(f'{type(error).__name__}: {error}')}"
            ) from error
        found = torch.onnx.export(program, input_names=["idx"], output_names=["logits"], verbose=False)
    assert found is not None
    axes = zip(found.model.graph.inputs[0].shape, ("batch", "length"), strict=True)
    found.rename_axes({axis: name for axis, name in axes if not isinstance(axis, int)})
    if block is not None:
        found.model.metadata_props["block_size"] = str(block)
    raw: bytes = found.model_proto.SerializeToString()
    return raw


def _ids(model: LanguageModel, rows: int, length: int) -> torch.Tensor:
    length = min(length, model.block_size or length)
    return torch.arange(rows * length).reshape(rows, length) % model.vocab_size


def _check_same(raw: bytes, model: LanguageModel) -> None:
    """Raise :class:`ConfigError` if ONNX Runtime is installed and gives other logits than a model."""
    try:
        import onnxruntime
    except ImportError:
        return
    session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])
    for idx in (_ids(model, 2, 5), _ids(model, 1, 1), _ids(model, 3, 32)):
        with torch.no_grad():
            logits = model(idx).logits
        found = torch.from_numpy(session.run(["logits"], {"idx": idx.numpy()})[0])
        difference, most = (found - logits).abs().max().item(), logits.abs().max().item()
        if not difference <= _TOLERANCE * max(1, most):
            raise ConfigError(
                f"model must give the same logits in ONNX Runtime, got a difference of {difference:.1e}; "
                "check its parts for a state that changes with each call"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the warnings of PyTorch's exporter, which are about its own parts."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
