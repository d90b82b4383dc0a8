"""An ONNX file holds the model, as ONNX Runtime runs it."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import make_gpt
from strategies import randomised
from torch import Tensor, nn

from tinygpt import BigramLanguageModel, GPTLanguageModel, LanguageModel, interop
from tinygpt.errors import CheckpointSaveError, ConfigError, InputTypeError, MissingExtraError, NonFiniteError
from tinygpt.interop import onnx
from tinygpt.models.config import LAYOUTS

# PyTorch's exporters cannot read the runtime type checks of these tests.
pytestmark = pytest.mark.usefixtures("unchecked_types")


@pytest.fixture(autouse=True)
def _float32(_float64: None) -> None:
    torch.set_default_dtype(torch.float32)


def make(name: Any, **sizes: Any) -> LanguageModel:
    model: LanguageModel = BigramLanguageModel(7) if name == "bigram" else make_gpt(name, **{"vocab_size": 7} | sizes)
    randomised(model)
    return model


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_a_missing_package_is_named_with_its_extra(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", sys)
    monkeypatch.setitem(sys.modules, "onnxscript", sys)
    monkeypatch.setitem(sys.modules, missing, None)  # as a failed import leaves it
    with pytest.raises(
        MissingExtraError,
        match=rf'save_onnx needs the package {missing}, which is not installed; run: pip install "tinygpt\[onnx\]"',
    ) as caught:
        interop.save_onnx(tmp_path / "model.onnx", make("bigram"))
    assert isinstance(caught.value, ImportError)
    assert not any(tmp_path.iterdir())


def test_a_model_that_cannot_go_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, model = tmp_path / "model.onnx", make("bigram")
    with pytest.raises(InputTypeError, match="model must be a LanguageModel, got"):
        interop.save_onnx(path, nn.Linear(2, 2))  # type: ignore[arg-type] # wrong on purpose
    monkeypatch.setattr(onnx, "_MOST_BYTES", 4 * 7 * 7)
    with pytest.raises(ConfigError, match="must be smaller than 2 GiB for ONNX, got 196 bytes"):
        interop.save_onnx(path, model)
    model.get_parameter("table.weight").data[3] = float("nan")
    with pytest.raises(NonFiniteError, match="weights must not be NaN to be saved"):
        interop.save_onnx(path, model)
    assert not path.exists()


# --- with ONNX Runtime ------------------------------------------------------------------------------------------------


def runtime() -> Any:
    """Return the package onnxruntime, where what exports is installed too."""
    pytest.importorskip("onnxscript", reason="needs onnxscript: make interop")
    return pytest.importorskip("onnxruntime", reason="needs onnxruntime: make interop")


@pytest.mark.interop
@pytest.mark.parametrize("name", [*LAYOUTS, "bigram"])
def test_onnx_runtime_gives_the_logits(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """At every batch and length, of a model in another dtype and in training mode, which stays as it was."""
    library, path, model = runtime(), tmp_path / "model.onnx", make(name, block_size=32)
    weights = {key: tensor.clone() for key, tensor in model.double().state_dict().items()}
    interop.save_onnx(path, model)
    assert capfd.readouterr() == ("", "")
    assert model.training
    assert all(torch.equal(tensor, weights[key]) for key, tensor in model.state_dict().items())
    assert [*tmp_path.iterdir()] == [path]
    session = library.InferenceSession(path)
    assert session.get_inputs()[0].shape == ["batch", "length"]
    assert session.get_outputs()[0].shape == ["batch", "length", 7]
    assert session.get_modelmeta().custom_metadata_map == ({} if name == "bigram" else {"block_size": "32"})
    model.float().eval()
    for shape in [(2, 7), (3, 32), (1, 2), (1, 1)]:
        idx = torch.randint(7, shape)
        found = torch.from_numpy(session.run(["logits"], {"idx": idx.numpy()})[0])
        torch.testing.assert_close(found, model(idx).logits, rtol=0, atol=1e-5)


@pytest.mark.interop
def test_a_window_of_one_token_is_a_fixed_length(tmp_path: Path) -> None:
    library = runtime()
    interop.save_onnx(tmp_path / "model.onnx", make("gpt2", block_size=1))
    assert library.InferenceSession(tmp_path / "model.onnx").get_inputs()[0].shape == ["batch", 1]


class Mean(nn.Module):
    """Freezes the number of rows."""

    def forward(self, x: Tensor) -> Tensor:
        return x / len(x) if x.shape[1] > 1 else x


class Counting(nn.Module):
    """Computes something else in each call."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.calls * x


@pytest.mark.interop
@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Mean, "model must be accepted by torch.export with free sizes, got .*You marked batch as dynamic"),
        (Counting, "must give the same logits in ONNX Runtime, got a difference of .*; check its parts for a state"),
    ],
)
def test_a_part_that_onnx_cannot_hold_is_named(part: Any, message: str, tmp_path: Path) -> None:
    runtime()
    with pytest.raises(ConfigError, match=message) as caught:
        interop.save_onnx(tmp_path / "m.onnx", GPTLanguageModel(7, block_size=8, n_embd=4, blocks=[part()]))
    assert len(str(caught.value)) <= 300
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.interop
def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    runtime()
    with pytest.raises(CheckpointSaveError, match=r"cannot write .*; an older file is unchanged"):
        interop.save_onnx(tmp_path / "absent" / "model.onnx", make("bigram"))
