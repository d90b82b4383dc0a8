"""One file holds a model: it comes back as it was, or not at all."""

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import faults
import pytest
import torch
from faults import broken_by
from safetensors import safe_open
from strategies import randomised
from torch import nn

import tinygpt
from tinygpt import BigramLanguageModel, CharTokenizer, GPTConfig, GPTLanguageModel, LanguageModel
from tinygpt.checkpoint import _digest, read, write
from tinygpt.envelope import FORMAT_VERSION
from tinygpt.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    CheckpointSaveError,
    CheckpointVersionError,
    InputTypeError,
)
from tinygpt.files import to_json

TOKENIZER = CharTokenizer(["a", "b", "\ud83d", "\udc4d", "\n"], on_unknown="skip")


def make_gpt(layout: str = "notebook", **changes: Any) -> GPTLanguageModel:
    sizes = {"vocab_size": 5, "block_size": 4, "n_layer": 1, "n_head": 1, "n_embd": 4} | changes
    model = GPTConfig(**sizes | {"layout": layout}).build()
    randomised(model)
    return model.float()


def make_composed() -> GPTLanguageModel:
    return GPTLanguageModel(5, block_size=4, n_embd=4, blocks=[nn.Linear(4, 4)]).float()


MODELS: dict[str, Callable[[], LanguageModel]] = {
    "notebook": lambda: make_gpt("notebook"),
    "gpt2": lambda: make_gpt("gpt2"),
    "modern": lambda: make_gpt("modern"),
    "bigram": lambda: BigramLanguageModel(5).float(),
    "composed": make_composed,
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())


@pytest.fixture(autouse=True)
def _float32(_float64: None) -> None:
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a small saved model."""
    target = tmp_path / "model.safetensors"
    tinygpt.save(target, BigramLanguageModel(3), CharTokenizer("abc"))
    return target


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@broken_by(faults.metadata_in_any_order)
@every_model
def test_a_model_comes_back_bit_for_bit(make: Callable[[], LanguageModel], tmp_path: Path) -> None:
    model, target = make(), tmp_path / "model.safetensors"
    state = torch.get_rng_state()
    model.train()
    tinygpt.save(target, model, TOKENIZER)
    assert model.training
    into = make_composed() if model.__dict__.get("config", 0) is None else None
    loaded, tokenizer = tinygpt.load(target, into=into)
    assert torch.equal(torch.get_rng_state(), state) or into is not None
    assert same(loaded, model)
    assert tokenizer == TOKENIZER
    assert (loaded is into) if into is not None else not loaded.training
    assert type(loaded) is type(model)
    assert loaded.block_size == model.block_size
    first = target.read_bytes()
    tinygpt.save(target, loaded, tokenizer)
    assert target.read_bytes() == first
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_tied_weights_are_written_once_and_stay_tied(tmp_path: Path) -> None:
    tinygpt.save(tmp_path / "model", make_gpt("gpt2"))
    loaded, tokenizer = tinygpt.load(tmp_path / "model")
    assert loaded.get_parameter("head.weight") is loaded.get_parameter("token_embedding.weight")
    assert tokenizer is None


def test_a_tokenizer_with_an_end_takes_format_2(tmp_path: Path) -> None:
    for number, tokenizer in [(1, CharTokenizer("abc")), (2, CharTokenizer("abc", end="c"))]:
        tinygpt.save(tmp_path / "model", BigramLanguageModel(3), tokenizer)
        with safe_open(tmp_path / "model", framework="numpy") as file:
            assert json.loads(file.metadata()["tinygpt"])["payload"]["format"] == number
        assert tinygpt.load(tmp_path / "model")[1] == tokenizer


def test_any_reader_of_the_format_opens_the_file(path: Path) -> None:
    with safe_open(path, framework="numpy") as file:
        assert list(file.keys()) == ["table.weight"]
        payload = json.loads(file.metadata()["tinygpt"])["payload"]
    assert payload == {
        "config": {"vocab_size": 3},
        "format": 1,
        "model": "BigramLanguageModel",
        "parts": None,
        "tokenizer": {"on_unknown": "error", "symbols": ["a", "b", "c"], "type": "CharTokenizer"},
        "training": None,
    }


@broken_by(faults.digest_not_compared)
def test_every_changed_bit_is_noticed(path: Path) -> None:
    raw = path.read_bytes()
    for bit in range(8 * len(raw)):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises((CheckpointCorruptError, CheckpointVersionError), match=r"model\.safetensors"):
            tinygpt.load(path)


def test_a_cut_or_grown_file_is_noticed(path: Path) -> None:
    """Blocks of 64 bytes may also be missing, zero, or in another order."""
    raw = path.read_bytes()
    blocks = [raw[start : start + 64] for start in range(0, len(raw), 64)]
    spoilt = [b"".join([*blocks[:i], bytes(len(blocks[i])), *blocks[i + 1 :]]) for i in range(len(blocks))]
    spoilt += [b"".join([*blocks[:i], *blocks[i + 1 :]]) for i in range(len(blocks))]
    spoilt += [b"".join([*blocks[:i], blocks[i + 1], blocks[i], *blocks[i + 2 :]]) for i in range(len(blocks) - 1)]
    for changed in [*(raw[:length] for length in range(len(raw))), raw + b"\0", raw + bytes(1024), *spoilt]:
        path.write_bytes(changed)
        with pytest.raises(CheckpointCorruptError):
            tinygpt.load(path)


def test_a_cut_file_states_its_size(path: Path) -> None:
    raw = path.read_bytes()
    header = 8 + int.from_bytes(raw[:8], "little")
    for length, whole in [(100, header), (200, header), (header, len(raw)), (len(raw) - 1, len(raw))]:
        path.write_bytes(raw[:length])
        message = f"model.safetensors' is incomplete: it has {length:,} of at least {whole:,} bytes; copy or save it"
        with pytest.raises(CheckpointCorruptError, match=message):
            tinygpt.load(path)


@pytest.mark.parametrize("end", [b"1e999", b"-1", b"9" * 400, b"[]", b"true"], ids=str)
def test_a_damaged_size_in_a_header_is_a_corrupt_file(end: bytes, path: Path) -> None:
    raw = path.read_bytes()
    header = raw[8 : 8 + int.from_bytes(raw[:8], "little")]
    changed = re.sub(rb'("data_offsets":\[\d+,)\d+', rb"\g<1>" + end, header)
    assert changed != header
    path.write_bytes(len(changed).to_bytes(8, "little") + changed)
    with pytest.raises(CheckpointCorruptError) as caught:
        tinygpt.load(path)
    assert len(str(caught.value)) <= 300


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    tinygpt.save(tmp_path / "model", make_gpt())
    with pytest.raises(
        CheckpointMismatchError, match=r"token_embedding.weight is \(5, 4\) torch.float32, expected \(6, 4\)"
    ):
        tinygpt.load(tmp_path / "model", into=make_gpt(vocab_size=6))
    with pytest.raises(CheckpointMismatchError, match=r"blocks\.1\..* is missing; .*; and \d+ more"):
        tinygpt.load(tmp_path / "model", into=make_gpt(n_layer=2))
    with pytest.raises(CheckpointMismatchError, match=r"torch.float32, expected .* torch.float64"):
        tinygpt.load(tmp_path / "model", into=make_gpt().double())
    tinygpt.save(tmp_path / "two", make_gpt(n_layer=2))
    with pytest.raises(CheckpointMismatchError, match=r"'blocks\.1\..*' is not in the model"):
        tinygpt.load(tmp_path / "two", into=make_gpt())


def test_a_model_that_cannot_be_rebuilt_is_named(path: Path, tmp_path: Path) -> None:
    """It is of another class than the model passed, or composed by hand."""
    with pytest.raises(CheckpointMismatchError, match="contains a 'BigramLanguageModel', got a GPTLanguageModel"):
        tinygpt.load(path, into=make_gpt())
    tinygpt.save(tmp_path / "own", make_composed())
    with pytest.raises(
        CheckpointMismatchError, match=r"composed or changed by hand; build it again and use load\(path, into=model\)"
    ):
        tinygpt.load(tmp_path / "own")


def change_norm(model: GPTLanguageModel) -> None:
    model.blocks[0].attention_norm = nn.Identity()


def change_activation(model: GPTLanguageModel) -> None:
    model.get_submodule("blocks.0.feed_forward").activation = nn.Tanh()


@pytest.mark.parametrize("change", [change_norm, change_activation])
def test_a_change_without_weights_is_noticed(change: Callable[[GPTLanguageModel], None], tmp_path: Path) -> None:
    """The norm and the activation have no weights."""
    changed, again = (
        GPTConfig.modern(vocab_size=5, block_size=8, n_layer=1, n_head=1, n_embd=4).build() for _ in range(2)
    )
    tinygpt.save(tmp_path / "plain", changed)
    tinygpt.load(tmp_path / "plain")
    change(changed)
    tinygpt.save(tmp_path / "changed", changed)
    with pytest.raises(CheckpointMismatchError, match="composed or changed by hand; build it again"):
        tinygpt.load(tmp_path / "changed")
    change(again)
    tinygpt.load(tmp_path / "changed", into=again)


def test_other_settings_of_the_same_shapes_are_a_warning(tmp_path: Path) -> None:
    """Here the number of heads, which changes no shape but each result."""
    tinygpt.save(tmp_path / "model", make_gpt(n_head=2))
    with pytest.warns(UserWarning, match=r"other parts of the same shapes: n_head=4 \(checkpoint has 2\)"):
        tinygpt.load(tmp_path / "model", into=make_gpt(n_head=4))
    tinygpt.load(tmp_path / "model", into=make_gpt(n_head=2))


def test_loading_builds_one_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tinygpt.save(tmp_path / "model", make_gpt(n_layer=3))
    built = []
    real = GPTLanguageModel.__init__

    def counted(self: GPTLanguageModel, *arguments: Any, **named: Any) -> None:
        built.append(self)
        real(self, *arguments, **named)

    monkeypatch.setattr(GPTLanguageModel, "__init__", counted)
    model, _ = tinygpt.load(tmp_path / "model")
    assert built == [model]


def test_a_save_passes_through_five_files(tmp_path: Path) -> None:
    """A reader who follows a save opens no other file of the library."""
    model, root, opened = make_gpt(), Path(tinygpt.__file__).parent, set()

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(root):
            opened.add(str(path.relative_to(root)))

    sys.setprofile(watch)
    try:
        tinygpt.save(tmp_path / "model", model, TOKENIZER)
    finally:
        sys.setprofile(None)
    assert len(opened) <= 5, opened


def rewrite(path: Path, **changes: Any) -> None:
    """Change the payload of a file and sign it again, as a newer or a foreign program might."""
    with safe_open(path, framework="pt") as file:
        payload = json.loads(file.metadata()["tinygpt"])["payload"] | changes
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    from safetensors.torch import save_file

    save_file(tensors, path, {"tinygpt": to_json({"payload": payload, "sha256": _digest(tensors, payload)})})


def test_a_newer_format_is_named(path: Path) -> None:
    rewrite(path, format=FORMAT_VERSION + 1)
    with pytest.raises(CheckpointVersionError, match=f"has format {FORMAT_VERSION + 1}, this tinygpt reads up to"):
        tinygpt.load(path)


@pytest.mark.parametrize("config", [{"vocab_size": 0}, {"n_layer": 1}, {}])
def test_an_invalid_config_is_a_checkpoint_error(path: Path, config: Any) -> None:
    rewrite(path, config=config)
    with pytest.raises(CheckpointCorruptError, match="contains invalid settings"):
        tinygpt.load(path)


def test_a_path_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"there is no model file '.*absent'"):
        tinygpt.load(tmp_path / "absent")
    with pytest.raises(FileNotFoundError):
        tinygpt.load(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="it is not a regular file"):
        tinygpt.load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="it is not a regular file"):
        tinygpt.load(tmp_path / "pipe")


def test_a_failed_save_leaves_the_old_file(path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(
        CheckpointSaveError,
        match=r"cannot write '.*absent/model': No such file .*; it needs [\d,]+ bytes; an older file is unchanged",
    ):
        tinygpt.save(tmp_path / "absent" / "model", make_gpt())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(CheckpointSaveError, match="No space left on device"):
            tinygpt.save(path, make_gpt())
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_new_file_respects_the_umask(mask: int, mode: int, tmp_path: Path) -> None:
    previous = os.umask(mask)
    try:
        tinygpt.save(tmp_path / "model", make_gpt())
    finally:
        os.umask(previous)
    assert (tmp_path / "model").stat().st_mode & 0o777 == mode


def test_a_save_keeps_the_link_and_the_mode(path: Path, tmp_path: Path) -> None:
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    tinygpt.save(link, make_gpt())
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert type(tinygpt.load(path)[0]) is GPTLanguageModel


@pytest.mark.usefixtures("unchecked_types")
def test_arguments_of_wrong_types_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputTypeError, match="model must be a LanguageModel, got Linear"):
        tinygpt.save(tmp_path / "model", nn.Linear(2, 2))  # type: ignore[arg-type] # wrong on purpose
    with pytest.raises(InputTypeError, match="tokenizer must have vocab_size, encode and decode, got str"):
        tinygpt.save(tmp_path / "model", make_gpt(), "abc")  # type: ignore[arg-type] # wrong on purpose
    with pytest.raises(InputTypeError, match="path must be a str or a path, got None"):
        tinygpt.save(None, make_gpt())  # type: ignore[arg-type] # wrong on purpose
    with pytest.raises(InputTypeError, match="path must be a str or a path, got None"):
        tinygpt.load(None)  # type: ignore[arg-type] # wrong on purpose
    assert list(tmp_path.iterdir()) == []


def test_an_invalid_file_leaves_the_model_unchanged(path: Path) -> None:
    payload, tensors = read(path)
    payload["tokenizer"]["symbols"] = ["a", "a", "b"]
    write(path, tensors, payload)
    model = BigramLanguageModel(3)
    before = model.table.weight.clone()
    with pytest.raises(CheckpointCorruptError, match="contains an invalid tokenizer"):
        tinygpt.load(path, into=model)
    assert torch.equal(model.table.weight, before)
