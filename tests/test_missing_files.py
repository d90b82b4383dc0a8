"""Paths of files that are missing: the message has the nearest name, or says where it was looked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygpt
from tinygpt import BigramLanguageModel, CharTokenizer, Sampler, TokenDataset, views
from tinygpt.cli import main
from tinygpt.errors import CheckpointNotFoundError, ConfigError, DataNotFoundError, show
from tinygpt.training import advise

TOKENIZER = CharTokenizer("ab")

READERS: dict[str, Callable[[Any], object]] = {
    "read_text": tinygpt.read_text,
    "read_texts": tinygpt.read_texts,
    "read_texts of several": lambda path: tinygpt.read_texts(["there.txt", path]),
    "from_file": TokenDataset.from_file,
    "train": tinygpt.train,
    "advise": advise,
    "prepare": lambda path: tinygpt.prepare(path, "out", TOKENIZER),
    "prepare several": lambda path: tinygpt.prepare(["there.txt", path], "out", TOKENIZER),
    "open": TokenDataset.open,
    "open with a size": lambda path: TokenDataset.open(path, vocab_size=9),
    "open with val": lambda path: TokenDataset.open("there.bin", vocab_size=9, val=path),
    "plot_runs": lambda path: views.plot_runs({"a": path}),
    "load": tinygpt.load,
    "Sampler.load": Sampler.load,
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("there.txt").write_text("abba" * 9, encoding="utf-8")
    np.zeros(9, np.uint16).tofile("there.bin")
    Sampler(BigramLanguageModel(2), TOKENIZER).save("m.safetensors")
    return tmp_path


def refused(call: Callable[[Any], object], path: Any) -> str:
    with pytest.raises(FileNotFoundError) as caught:
        call(path)
    assert isinstance(caught.value, CheckpointNotFoundError | DataNotFoundError)
    assert len(str(caught.value)) <= 300
    return str(caught.value)


@pytest.mark.parametrize("call", READERS.values(), ids=READERS)
def test_a_missing_file_has_the_nearest_name_in_its_message(call: Callable[[Any], object], folder: Path) -> None:
    assert refused(call, "thre.txt").endswith("'thre.txt'; did you mean 'there.txt'?")
    assert refused(call, Path("nix") / ("x" * 90)).endswith(f"in {show(folder)}; check the path")
    assert "; check the path" in refused(call, folder / "q" / ("x" * 200))


def test_a_text_in_place_of_a_path_is_told_from_one() -> None:
    for call in (tinygpt.train, advise, tinygpt.read_text, TokenDataset.from_file):
        message = "there is no file 'to be, or not'; if it is a text, use TokenDataset(text)"
        assert refused(call, "to be, or not") == message


@pytest.mark.parametrize("call", READERS.values(), ids=READERS)
def test_a_path_longer_than_any_is_refused(call: Callable[[Any], object]) -> None:
    with pytest.raises(ConfigError, match=r"for a file system, got 400 characters, .*TokenDataset\(text\)"):
        call("to b" * 100)


def test_a_folder_without_a_log_is_no_run() -> None:
    Path("empty").mkdir()
    message = refused(lambda path: views.plot_runs({"a": path}), "empty")
    assert message.startswith(f"there is no log {show(Path('empty/metrics.jsonl'))} in ")


VERBS = [
    ["info", ""],
    ["write", ""],
    ["score", "", "a"],
    ["score", "m.safetensors", "--file", ""],
    ["compare", "", ""],
    ["view", "", "a"],
    ["serve", ""],
    ["play", ""],
    ["export", "", "x", "--to", "gguf"],
    ["import", "", "-o", "x"],
    ["prepare", "", "-o", "x"],
    ["train", ""],
    ["train", "there.txt", "--config", ""],
    ["train", "--resume", ""],
]


@pytest.mark.parametrize("line", VERBS, ids=" ".join)
def test_an_empty_path_is_refused_by_each_verb(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line) == 2
    assert "must not be empty, got " in capsys.readouterr().err
