"""Models of other programs come in as they are, and ours go out as they are."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import TOKENIZER, make_gpt
from safetensors.torch import load_file, save_file
from strategies import randomised
from torch import Tensor, nn

from tinygpt import BigramLanguageModel, CharTokenizer, GPTLanguageModel, LanguageModel, interop
from tinygpt.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    CheckpointSaveError,
    ConfigError,
    InputTypeError,
    NonFiniteError,
    TokenizerError,
)

HOME = Path(__file__).parent / "interop"
sys.path.insert(0, str(HOME))
import make_nanogpt  # noqa: E402 - the folder is not a package


@pytest.fixture(autouse=True)
def _float32(_float64: None) -> None:
    torch.set_default_dtype(torch.float32)


def make(layout: Any = "gpt2", **sizes: Any) -> GPTLanguageModel:
    model = make_gpt(layout, **sizes)
    randomised(model)
    return model.eval()


def same(one: LanguageModel, other: LanguageModel) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def changed(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a small model and its tokenizer."""
    interop.save_huggingface(tmp_path / "folder", make(), TOKENIZER)
    return tmp_path / "folder"


# --- nanoGPT ----------------------------------------------------------------------------------------------------------


def checkpoint(name: str = "biased") -> tuple[dict[str, Any], Tensor, Tensor]:
    """Return a checkpoint, ids, and nanoGPT's logits for them."""
    stored = torch.load(make_nanogpt.PATH, weights_only=True)
    return stored[name], stored["idx"], stored[name]["logits"]


@pytest.mark.parametrize("name", ["biased", "unbiased"])
def test_a_checkpoint_of_nanogpt_gives_its_logits(name: str) -> None:
    """Also with the biases that it was trained without."""
    mapping, idx, logits = checkpoint(name)
    model = interop.load_nanogpt(mapping)
    assert not model.training
    torch.testing.assert_close(model(idx).logits.double(), logits, rtol=0, atol=1e-6)
    torch.testing.assert_close(model.double()(idx).logits, logits, rtol=0, atol=1e-10)
    assert model.config is not None
    assert (model.config.layout, model.config.dropout) == ("nanogpt", 0.1)


def test_the_weights_of_a_checkpoint_are_copied() -> None:
    mapping, _, _ = checkpoint()
    model = interop.load_nanogpt(mapping)
    with torch.no_grad():
        model.get_parameter("norm.weight").zero_()
    assert mapping["model"]["_orig_mod.transformer.ln_f.weight"].abs().max() > 0


def test_a_checkpoint_without_a_size_or_weight_is_refused() -> None:
    mapping, _, _ = checkpoint()
    del mapping["model"]["_orig_mod.transformer.ln_f.weight"]
    with pytest.raises(CheckpointMismatchError, match=r"'checkpoint' does not fit the model: norm\.weight is missing"):
        interop.load_nanogpt(mapping)
    mapping["model_args"]["n_embd"] = 16
    with pytest.raises(CheckpointCorruptError, match="n_layer=2 and n_embd=16 need at least 8 tensors"):
        interop.load_nanogpt(mapping)
    mapping["model_args"]["n_head"] = 3
    with pytest.raises(CheckpointMismatchError, match="model_args must describe a model: n_head must divide n_embd"):
        interop.load_nanogpt(mapping)
    del mapping["model_args"]["n_head"]
    with pytest.raises(CheckpointMismatchError, match="model_args must have n_head, got"):
        interop.load_nanogpt(mapping)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("wrong", ["ckpt.pt", {"model": {}}, None])
def test_only_the_mapping_of_nanogpt_is_one(wrong: Any) -> None:
    with pytest.raises(InputTypeError, match=r"checkpoint must be the mapping .*; use torch\.load\(path, map_location"):
        interop.load_nanogpt(wrong)


# --- Hugging Face -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["gpt2", "nanogpt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_folder_gives_the_model_back_bit_for_bit(layout: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    model = make(layout, dropout=0.25).to(dtype)
    interop.save_huggingface(tmp_path, model, TOKENIZER)
    again, tokenizer = interop.load_huggingface(str(tmp_path))
    assert same(model, again)
    assert again.config == model.config
    assert tokenizer == TOKENIZER
    assert again.get_parameter("head.weight") is again.get_parameter("token_embedding.weight")


@pytest.mark.parametrize("activation", ["gelu_new", "gelu"])
def test_a_folder_of_transformers_gives_its_logits(activation: str, tmp_path: Path) -> None:
    """And its tokenizer, as ``interop/make_huggingface.py`` wrote them without tinygpt."""
    shutil.copytree(HOME / "huggingface", tmp_path / "theirs")
    changed(tmp_path / "theirs", activation_function=activation)
    model, tokenizer = interop.load_huggingface(tmp_path / "theirs")
    expected = load_file(HOME / "huggingface/logits.safetensors")
    torch.testing.assert_close(model(expected["idx"]).logits.double(), expected[activation], rtol=0, atol=1e-5)
    torch.testing.assert_close(model.double()(expected["idx"]).logits, expected[activation], rtol=0, atol=1e-10)
    assert tokenizer == CharTokenizer("\n abcé漢👍", on_unknown="a", end="\n")


def test_the_names_and_shapes_are_those_of_gpt2(folder: Path) -> None:
    tensors, model = load_file(folder / "model.safetensors"), make()
    assert tensors["transformer.wte.weight"].equal(model.get_parameter("token_embedding.weight"))
    assert tensors["transformer.h.1.attn.c_attn.weight"].shape == (8, 24)
    assert tensors["transformer.h.1.attn.c_attn.weight"].T.equal(model.get_parameter("blocks.1.attention.qkv.weight"))
    assert len(tensors) == 2 * 12 + 4
    settings = json.loads((folder / "config.json").read_text())
    assert (settings["model_type"], settings["n_positions"], settings["eos_token_id"]) == ("gpt2", 8, None)
    assert json.loads((folder / "generation_config.json").read_text())["max_length"] == 8


@pytest.mark.parametrize("change", ["bare names", "old masks", "with the head", "only the head"])
def test_other_spellings_of_the_names_are_read(change: str, folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    if change == "bare names":
        tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    elif change == "old masks":
        tensors |= {
            "transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8),
            "transformer.h.0.attn.masked_bias": torch.ones(()),
        }
    else:
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()
        if change == "only the head":
            del tensors["transformer.wte.weight"]
    save_file(tensors, path)
    assert same(interop.load_huggingface(folder)[0], make())


@pytest.mark.parametrize("on_unknown", ["error", "skip", " "])
def test_a_tokenizer_survives_the_folder(on_unknown: str, tmp_path: Path) -> None:
    """With its policy for unknown characters, its symbols outside ASCII, and its end of text."""
    tokenizer = CharTokenizer([*' \n"\\aé漢👍', "\0", "\x03"], on_unknown=on_unknown, end="\x03")
    interop.save_huggingface(tmp_path, make(vocab_size=10), tokenizer)
    assert (tmp_path / "tokenizer.json").read_bytes().isascii()
    assert interop.load_huggingface(tmp_path)[1] == tokenizer
    assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] == 9


@pytest.mark.parametrize(
    ("plain", "other"),
    [
        ('"merges":[]', '"merges":[["t","h"]]'),
        ('"normalizer":null', '"normalizer":{"type":"Lowercase"}'),
        ('"byte_fallback":false', '"byte_fallback":true'),
        ('"type":"BPE"', '"type":"WordPiece"'),
        ('"vocab":{', '"vocab":{"to":99,'),
        ("{", ""),
    ],
    ids=["merges", "normalizer", "bytes", "words", "gap", "no json"],
)
def test_a_tokenizer_of_another_kind_needs_its_package(
    plain: str, other: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)  # as a failed import leaves it
    path = folder / "tokenizer.json"
    assert plain in path.read_text()
    path.write_text(path.read_text().replace(plain, other))
    with pytest.warns(UserWarning, match=r"tokenizer\.json' needs the package tokenizers, .*; run: pip install"):
        assert interop.load_huggingface(folder)[1] is None
    with pytest.raises(ConfigError, match="folder must not contain another tokenizer"):
        interop.save_huggingface(folder, make())
    path.unlink()
    assert interop.load_huggingface(folder)[1] is None


def setting(**settings: Any) -> Callable[[Path], None]:
    return lambda folder: changed(folder, **settings)


def untie(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file(load_file(path) | {"lm_head.weight": torch.zeros(TOKENIZER.vocab_size, 8)}, path)


def pickle_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").touch()


SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "llama"}, "must have model_type 'gpt2', got 'llama'"),
    ({"layer_norm_epsilon": 1e-6}, "must have layer_norm_epsilon 1e-05, got 1e-06"),
    ({"n_inner": 9}, r"must have n_inner 4 \* n_embd, got 9"),
    ({"tie_word_embeddings": False}, "must have tie_word_embeddings True, got False"),
    ({"scale_attn_weights": False}, "must have scale_attn_weights True, got False"),
    ({"scale_attn_by_inverse_layer_idx": True}, "must have scale_attn_by_inverse_layer_idx False, got True"),
    ({"add_cross_attention": True}, "must have add_cross_attention False, got True"),
    ({"activation_function": "relu"}, "must have activation_function one of 'gelu_new', .*, got 'relu'"),
    ({"n_head": 3}, "contains invalid settings: n_head must divide n_embd"),
    ({"n_layer": 10**9}, "contains invalid settings: "),
    ({"n_embd": 16}, "contains invalid settings: n_layer=2 and n_embd=16 need at least"),
    ({"n_positions": 9}, r"positions.table.weight is \(8, 8\) torch.float32, expected \(9, 8\)"),
]
# How a folder is spoilt, or another path in its stead; the error; its message.
REFUSED: dict[str, tuple[Callable[[Path], str | None], type[Exception], str]] = {
    "hub name": (lambda _: "gpt2", ConfigError, "folder must be a local directory, got 'gpt2'; download it first"),
    "no config": (
        lambda folder: (folder / "config.json").unlink(),
        CheckpointNotFoundError,
        r"there is no file .*config\.json",
    ),
    "pickle": (pickle_weights, CheckpointNotFoundError, r"must have model\.safetensors, got other formats"),
    "shards": (shard, CheckpointNotFoundError, r"must have one model\.safetensors, got shards"),
    "untied": (untie, CheckpointMismatchError, r"LM head tied to the embedding, got lm_head\.weight unlike wte"),
    **{" ".join(settings): (setting(**settings), CheckpointError, message) for settings, message in SETTINGS},
}


@pytest.mark.parametrize(("spoil", "kind", "message"), REFUSED.values(), ids=REFUSED)
def test_a_folder_of_another_model_is_refused(
    spoil: Callable[[Path], str | None], kind: type[Exception], message: str, folder: Path
) -> None:
    other = spoil(folder)
    with pytest.raises(kind, match=message) as caught:
        interop.load_huggingface(other or folder)
    assert len(str(caught.value)) <= 300


def test_dropouts_that_differ_are_a_warning(folder: Path) -> None:
    changed(folder, resid_pdrop=0.3)
    with pytest.warns(UserWarning, match=r"tinygpt has one dropout, got \[0.0, 0.3\]"):
        model, _ = interop.load_huggingface(folder)
    assert model.config is not None
    assert model.config.dropout == 0.3


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_corrupt_folder_is_refused(name: str, folder: Path) -> None:
    raw = (folder / name).read_bytes()
    for spoilt in (b"", raw[:40], b"[1]", b"\xff" * 40):
        (folder / name).write_bytes(spoilt)
        with pytest.raises(CheckpointCorruptError, match=name):
            interop.load_huggingface(folder)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointSaveError, match="cannot write"):
        interop.save_huggingface(tmp_path / "file", make())


# --- refusals that all programs share ---------------------------------------------------------------------------------


def composed() -> LanguageModel:
    return GPTLanguageModel(5, block_size=4, n_embd=4, blocks=[nn.Linear(4, 4)])


def untied() -> LanguageModel:
    model = make()
    model.head.weight = nn.Parameter(model.get_parameter("head.weight").clone())
    return model


def with_nan() -> LanguageModel:
    model = make()
    with torch.no_grad():
        model.get_parameter("norm.weight")[0] = float("nan")
    return model


MODELS: dict[str, tuple[Callable[[], LanguageModel], type[Exception], str]] = {
    "modern": (
        lambda: make("modern"),
        ConfigError,
        "layout must be 'gpt2' or 'nanogpt' for .*, got 'modern', whose query .*; train with layout='gpt2'",
    ),
    "notebook": (lambda: make("notebook"), ConfigError, "got 'notebook', whose LM head has a bias .*; train with"),
    "composed": (composed, ConfigError, "model must be built from a GPTConfig, got parts of your own"),
    "bigram": (lambda: BigramLanguageModel(5), ConfigError, "built from a GPTConfig, got a BigramLanguageModel"),
    "untied": (untied, ConfigError, "head.weight must be token_embedding.weight itself"),
    "NaN": (with_nan, NonFiniteError, "weights must not be NaN to be saved"),
}


@pytest.mark.parametrize("save", [interop.save_huggingface, interop.save_gguf])
@pytest.mark.parametrize(("make_one", "kind", "message"), MODELS.values(), ids=MODELS)
def test_a_model_that_cannot_go_out_is_named(
    make_one: Callable[[], LanguageModel], kind: type[Exception], message: str, save: Any, tmp_path: Path
) -> None:
    model = make_one()
    tokenizer = CharTokenizer([chr(ord("a") + id) for id in range(model.vocab_size)])
    with pytest.raises(kind, match=message) as caught:
        save(tmp_path / "out", model, tokenizer)
    assert len(str(caught.value)) <= 300
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_goes_out_without_a_model(folder: Path) -> None:
    assert interop.to_huggingface(TOKENIZER) == (folder / "tokenizer.json").read_text(encoding="utf-8")


def test_a_tokenizer_that_cannot_go_out_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="symbols must be encodable in UTF-8"):
        interop.save_huggingface(tmp_path / "folder", make(vocab_size=2), CharTokenizer(["a", "\ud800"]))
    with pytest.raises(ConfigError, match="must not have more ids than the model"):
        interop.save_huggingface(tmp_path / "folder", make(vocab_size=2), CharTokenizer("abc"))
    assert not (tmp_path / "folder").exists()
