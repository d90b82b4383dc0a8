"""The settings of a run in ``config.json``: they come back as they were, and a hostile file is refused."""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import faults
import pytest
from builders import DATA, TEXT, make_gpt
from faults import broken_by
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinygpt import BigramLanguageModel, GPTConfig, LanguageModel, TokenDataset, Trainer, TrainerConfig
from tinygpt.corpora import TextFile
from tinygpt.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointVersionError,
    ConfigError,
    TinyGPTError,
)
from tinygpt.training.run_settings import RunSettings, read_settings

CONFIG = TrainerConfig(max_iters=2, batch_size=2, preview_tokens=0, betas=(0.5, 0.75), device="cpu")


def write(directory: Path, content: Any) -> Path:
    """Write a ``config.json``, as it is or as JSON, and return its directory."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return directory


def valid() -> dict[str, Any]:
    file = TextFile("/texts/verse.txt", "cp1252", "0" * 64)
    settings = RunSettings(trainer=CONFIG, model=GPTConfig(vocab_size=3), text=file, val_fraction=0.25, parts="a GPT")
    content: dict[str, Any] = json.loads(settings.to_json())
    return content


def begin(model: LanguageModel, data: TokenDataset, run_dir: Path) -> RunSettings:
    Trainer(model, data, CONFIG, run_dir=run_dir).save()
    return read_settings(run_dir)


@broken_by(faults.val_fraction_not_written)
def test_settings_come_back_as_they_were(tmp_path: Path) -> None:
    settings = read_settings(write(tmp_path, valid()))
    assert settings.trainer == CONFIG
    assert settings.model == GPTConfig(vocab_size=3)
    assert settings.text == TextFile("/texts/verse.txt", "cp1252", "0" * 64)
    assert (settings.val_fraction, settings.parts) == (0.25, "a GPT")
    assert json.loads(settings.to_json()) == valid()


def test_a_run_on_a_file_names_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "verse.txt").write_bytes(TEXT.encode("utf-16"))
    monkeypatch.chdir(tmp_path)
    data = TokenDataset.from_file("verse.txt", encoding="utf-16", val_fraction=0.2)
    assert data.digest() == DATA.digest()
    settings = begin(make_gpt("modern"), data, tmp_path / "run")
    assert settings.text is not None
    assert settings.text == data.file
    assert (settings.text.path, settings.text.encoding) == (str(tmp_path / "verse.txt"), "utf-16")
    printed = subprocess.run(["sha256sum", "verse.txt"], capture_output=True, text=True, check=True).stdout
    assert settings.text.sha256 == printed.split()[0]
    assert settings.val_fraction == 0.2
    assert settings.model == make_gpt("modern").config
    assert settings.parts.startswith("GPTLanguageModel(")


def test_a_run_without_a_file_or_a_config_names_none(tmp_path: Path) -> None:
    changed = make_gpt()
    changed.blocks[0] = make_gpt(n_head=1).blocks[0]
    for name, model in {"changed": changed, "bigram": BigramLanguageModel(DATA.vocab_size)}.items():
        settings = begin(model, DATA, tmp_path / name)
        assert (settings.text, settings.model, settings.trainer) == (None, None, CONFIG)


def test_a_resumed_run_names_where_its_text_is_now(tmp_path: Path) -> None:
    for name in ("old.txt", "new.txt"):
        (tmp_path / name).write_text(TEXT)
    old, new = (TokenDataset.from_file(tmp_path / name, val_fraction=0.2) for name in ("old.txt", "new.txt"))
    begin(make_gpt(), old, tmp_path / "run")
    for data in (new, DATA):  # data without a file leave the settings as they are
        Trainer(make_gpt(), data, CONFIG, run_dir=tmp_path / "run").resume()
        assert read_settings(tmp_path / "run").text == new.file


def test_reading_settings_needs_no_torch(tmp_path: Path) -> None:
    write(tmp_path, valid())
    read = "from tinygpt.training.run_settings import read_settings; read_settings(sys.argv[1])"
    program = f"import sys; {read}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)


def change(where: str, **entries: Any) -> Callable[[dict[str, Any]], None]:
    """Return a function that changes entries of the file, or of an object in it."""
    return lambda content: (content[where] if where else content).update(entries)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change("", format=0), "expected format 1, got 0"),
        (change("", format=True), "expected another type of format in the file, got True"),
        (change("", more=1), "expected the entries format, tinygpt, text, model, trainer, parts in the file"),
        (change("", text=[]), "expected another type of text"),
        (change("text", path=7), "expected another type of path in text, got 7"),
        (change("text", sha256="0"), "expected a sha256 and a val_fraction"),
        (change("text", val_fraction=1.5), "expected a sha256 and a val_fraction"),
        (change("model", n_head=5), "n_head must divide n_embd"),
        (change("model", n_embd=10**7, n_head=1), "at most 1e.11 parameters"),
        (change("model", n_heads=4), "did you mean 'n_head'"),
        (change("trainer", max_iters="many"), "max_iters must be an integer"),
        (change("trainer", betas=[0.1]), "betas must be a tuple of two numbers"),
        (change("trainer", device=1), "device must be a str"),
        (change("trainer", steps=1), "did you mean 'max_iters'"),
    ],
)
def test_an_invalid_file_is_named(
    spoil: Callable[[dict[str, Any]], None], message: str, tmp_path: Path, unchecked_types: None
) -> None:
    content = valid()
    spoil(content)
    with pytest.raises(CheckpointCorruptError, match=rf"config.json' does not contain the settings .*{message}"):
        read_settings(write(tmp_path, content))


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"format": NaN}', "[" * 100_000, '{"a": 1, "a": 1}', "é"])
def test_anything_else_than_an_object_is_refused(content: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointCorruptError, match="does not contain the settings of a run"):
        read_settings(write(tmp_path, content))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), value=VALUES)
def test_whatever_an_entry_contains_the_error_is_typed(
    data: st.DataObject, value: Any, tmp_path: Path, unchecked_types: None
) -> None:
    content = valid()
    where = data.draw(st.sampled_from(["", "text", "model", "trainer"]))
    entries = content[where] if where else content
    entries[data.draw(st.sampled_from(sorted(entries)))] = value
    with suppress(TinyGPTError):
        read_settings(write(tmp_path, content))


def test_a_file_that_is_large_or_a_link_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, json.dumps(valid()) + " " * (1 << 20))
    with pytest.raises(CheckpointError, match="more than 1,048,576"):
        read_settings(tmp_path)
    write(tmp_path / "run", valid())
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").symlink_to(tmp_path / "run" / "config.json")
    with pytest.raises(CheckpointError, match="symbolic link"):
        read_settings(tmp_path)


def test_a_directory_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"there is no run in .*nothing': no file config.json"):
        read_settings(tmp_path / "nothing")


def test_an_older_file_is_answered_with_what_to_give(tmp_path: Path) -> None:
    older = {"trainer": valid()["trainer"], "model": "GPTLanguageModel()"}
    with pytest.raises(ConfigError, match=r"older tinygpt .* TrainerConfig\(max_iters=2, batch_size=2,.*resume=True"):
        read_settings(write(tmp_path, older))


def test_a_newer_file_asks_for_an_upgrade(tmp_path: Path) -> None:
    with pytest.raises(CheckpointVersionError, match="has format 2, this tinygpt reads up to 1; upgrade tinygpt"):
        read_settings(write(tmp_path, {"format": 2, "new": "entries"}))
