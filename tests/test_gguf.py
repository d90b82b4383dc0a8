"""A GGUF file holds the model and its vocabulary, as llama.cpp reads them."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import make_gpt
from strategies import randomised

from tinygpt import CharTokenizer, GPTLanguageModel, interop
from tinygpt.errors import CheckpointSaveError, ConfigError, InputTypeError, TokenizerError
from tinygpt.interop.names import names_in

ASCII = CharTokenizer("\n \\ab;\x7f")
OTHERS = CharTokenizer("\n aé漢👍\x03", end="\x03")
TOKENIZERS = [pytest.param(ASCII, id="ascii"), pytest.param(OTHERS, id="others")]


@pytest.fixture(autouse=True)
def _float32(_float64: None) -> None:
    torch.set_default_dtype(torch.float32)


def make(layout: Any = "gpt2", **sizes: Any) -> GPTLanguageModel:
    model = make_gpt(layout, **{"vocab_size": 7} | sizes)
    randomised(model)
    return model.eval()


KINDS = {4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q"}


class Reader:
    """A reader of the format, written from its specification alone."""

    def __init__(self, path: Path) -> None:
        self.raw, self.at = path.read_bytes(), 4
        assert self.raw[:4] == b"GGUF"
        assert self.take("<I") == 3
        tensors, values = self.take("<Q"), self.take("<Q")
        self.values = {self.text(): self.value(self.take("<I")) for _ in range(values)}
        infos = [self.info() for _ in range(tensors)]
        start = (self.at + 31) // 32 * 32
        self.tensors = {}
        for name, shape, kind, offset in infos:
            assert (kind, offset % 32) == (0, 0)
            array = np.frombuffer(self.raw, "<f4", int(np.prod(shape)), start + offset)
            self.tensors[name] = torch.tensor(array.reshape(shape[::-1]))

    def take(self, how: str) -> Any:
        (value,) = struct.unpack_from(how, self.raw, self.at)
        self.at += struct.calcsize(how)
        return value

    def text(self) -> str:
        length = self.take("<Q")
        self.at += length
        return self.raw[self.at - length : self.at].decode()

    def value(self, kind: int) -> Any:
        if kind == 9:
            kind, length = self.take("<I"), self.take("<Q")
            assert kind in (5, 8)  # llama.cpp refuses types of tokens that are not signed
            return [self.value(kind) for _ in range(length)]
        return self.text() if kind == 8 else self.take(KINDS[kind])

    def info(self) -> tuple[str, list[int], int, int]:
        name, rank = self.text(), self.take("<I")
        return name, [self.take("<Q") for _ in range(rank)], self.take("<I"), self.take("<Q")


@pytest.mark.parametrize("layout", ["gpt2", "nanogpt"])
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_the_file_holds_the_weights_and_the_sizes(layout: Any, tokenizer: CharTokenizer, tmp_path: Path) -> None:
    model = make(layout)
    interop.save_gguf(tmp_path / "model.gguf", model, tokenizer)
    file = Reader(tmp_path / "model.gguf")
    names = dict(names_in("gguf", 2))
    assert file.tensors.keys() == set(names.values())
    for ours, theirs in names.items():
        weight = model.get_parameter(ours)
        assert torch.equal(file.tensors[theirs][: len(weight)], weight)  # positions are padded
    sizes = ("block_count", "embedding_length", "feed_forward_length")
    assert [file.values[f"gpt2.{name}"] for name in sizes] == [2, 8, 32]
    assert file.values["gpt2.attention.head_count"] == 2
    assert file.values["general.architecture"] == "gpt2"


@pytest.mark.parametrize(("block_size", "rows"), [(1, 256), (256, 256), (257, 512)])
def test_positions_are_padded_to_what_llama_cpp_reads(block_size: int, rows: int, tmp_path: Path) -> None:
    """It aborts past the end of the table, and reads a multiple of 256 positions."""
    model = make(block_size=block_size)
    interop.save_gguf(tmp_path / "model.gguf", model, ASCII)
    file = Reader(tmp_path / "model.gguf")
    table = file.tensors["position_embd.weight"]
    assert (len(table), file.values["gpt2.context_length"]) == (rows, rows)
    assert torch.equal(table[block_size - 1 :], table[block_size - 1].expand(rows - block_size + 1, -1))


def test_an_ascii_vocabulary_has_no_ids_with_a_meaning(tmp_path: Path) -> None:
    interop.save_gguf(tmp_path / "model.gguf", make(), ASCII)
    values = Reader(tmp_path / "model.gguf").values
    assert values["tokenizer.ggml.model"] == "rwkv"
    assert values["tokenizer.ggml.tokens"] == [r"\x0a", " ", r"\x5c", "a", "b", ";", r"\x7f"]
    assert "tokenizer.ggml.eos_token_id" not in values
    assert values["tokenizer.ggml.add_bos_token"] is False
    interop.save_gguf(tmp_path / "model.gguf", make(), ASCII, end_id=5)
    assert Reader(tmp_path / "model.gguf").values["tokenizer.ggml.eos_token_id"] == 5


def test_other_symbols_are_merged_from_their_bytes(tmp_path: Path) -> None:
    interop.save_gguf(tmp_path / "model.gguf", make(), OTHERS)
    values = Reader(tmp_path / "model.gguf").values
    assert (values["tokenizer.ggml.model"], values["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert values["tokenizer.ggml.tokens"] == ["Ċ", "Ġ", "a", "Ã©", "æ¼¢", "ðŁĳį", "ă"]
    assert values["tokenizer.ggml.merges"] == ["Ã ©", "æ ¼", "æ¼ ¢", "ð Ł", "ðŁ ĳ", "ðŁĳ į"]
    assert values["tokenizer.ggml.eos_token_id"] == 6
    assert values["tokenizer.ggml.token_type"] == [1, 1, 1, 1, 1, 1, 3]


def test_what_gguf_cannot_hold_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with pytest.raises(ConfigError, match="end_id must be given for a vocabulary outside ASCII, got None and 'é'"):
        interop.save_gguf(path, make(vocab_size=2), CharTokenizer("aé"))
    with pytest.raises(ConfigError, match="end_id must be an integer from 0 to 1, got end_id=2"):
        interop.save_gguf(path, make(vocab_size=2), CharTokenizer("aé"), end_id=2)
    with pytest.raises(ConfigError, match="must have an id for each of the model's, got 7 and 9"):
        interop.save_gguf(path, make(vocab_size=9), ASCII)
    with pytest.raises(TokenizerError, match="encodable in UTF-8 for GGUF"):
        interop.save_gguf(path, make(vocab_size=2), CharTokenizer(["a", "\ud800"]), end_id=0)
    with pytest.raises(CheckpointSaveError, match=r"cannot write .*; an older file is unchanged"):
        interop.save_gguf(tmp_path / "absent" / "model.gguf", make(), ASCII)
    assert not path.exists()


@pytest.mark.usefixtures("unchecked_types")
def test_a_gguf_file_needs_a_tokenizer_of_characters(tmp_path: Path) -> None:
    with pytest.raises(InputTypeError, match="tokenizer must be a CharTokenizer for GGUF, got NoneType"):
        interop.save_gguf(tmp_path / "model.gguf", make(), None)  # type: ignore[arg-type] # wrong on purpose
