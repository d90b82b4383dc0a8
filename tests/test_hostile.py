"""Hostile files: none that is opened runs code, reaches elsewhere, or costs more than a small multiple of its size."""

import ast
import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from killable import exit_code, in_child, make_trainer
from torch import Tensor
from torch.overrides import TorchFunctionMode

import tinygpt
from tinygpt import BigramLanguageModel, CharTokenizer, GPTConfig
from tinygpt.checkpoint import _digest, read, write
from tinygpt.envelope import MOST_BYTES
from tinygpt.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointMismatchError,
    InputTypeError,
    NonFiniteError,
)
from tinygpt.files import to_json


class Counted(TorchFunctionMode):
    """Count the numbers in all tensors that are made; those without memory do not count."""

    numbers = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and not made.is_meta:
            self.numbers += made.numel()
        return made


@pytest.fixture(autouse=True)
def _float32(_float64: None, unchecked_types: None) -> None:
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "model.safetensors"
    tinygpt.save(target, BigramLanguageModel(3), CharTokenizer("abc"))
    return target


def envelope_of(raw: bytes) -> dict[str, Any]:
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    found: dict[str, Any] = json.loads(header["__metadata__"]["tinygpt"])
    return found


def signed(tensors: dict[str, Tensor], **changes: Any) -> bytes:
    """Return a file whose digest holds, as a stranger who knows the format can make one."""
    from safetensors.torch import save

    payload = {
        "format": 1,
        "model": "BigramLanguageModel",
        "config": {"vocab_size": 3},
        "parts": None,
        "tokenizer": None,
        "training": None,
    } | changes
    return save(tensors, {"tinygpt": to_json({"payload": payload, "sha256": _digest(tensors, payload)})})


TABLE = {"table.weight": torch.zeros(3, 3)}


def with_header(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: str = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def refusal(path: Path) -> CheckpointError:
    """Return the error with which a file is refused, before a model larger than the file was built."""
    with pytest.raises(CheckpointError) as caught, Counted() as counted:
        tinygpt.load(path)
    assert counted.numbers <= 8 * path.stat().st_size
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()
    return caught.value


# --- files that are no model ------------------------------------------------------------------------------------------

HEADERS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "no length": lambda: b"\x01\x02",
    "length 0": lambda: struct.pack("<Q", 0),
    "length 1": lambda: struct.pack("<Q", 1) + b"{",
    "length of 2^63": lambda: with_header({}, length=1 << 63),
    "length beyond the file": lambda: with_header({}, length=1000),
    "length over the limit": lambda: with_header({}, length=100_000_001),
    "not an object": lambda: with_header([1, 2]),
    "no UTF-8": lambda: with_header(b'{"\xff": 1}'),
    "a name twice": lambda: with_header(b'{"__metadata__": {}, "__metadata__": {"tinygpt": "{}"}}'),
    "no metadata": lambda: with_header({"a": entry()}, bytes(4)),
    "metadata of another program": lambda: with_header({"__metadata__": {"format": "pt"}, "a": entry()}, bytes(4)),
    "overlapping tensors": lambda: with_header({"a": entry(), "b": entry()}, bytes(4)),
    "a hole between tensors": lambda: with_header({"a": entry(), "b": entry(offsets=(8, 12))}, bytes(12)),
    "negative offsets": lambda: with_header({"a": entry(offsets=(-4, 0))}, bytes(4)),
    "a huge shape": lambda: with_header({"a": entry(shape=(1 << 62, 4))}, bytes(4)),
    "an unknown dtype": lambda: with_header({"a": entry(dtype="F128")}, bytes(4)),
    "100,000 tensors": lambda: with_header(
        {f"t{i}": entry(offsets=(4 * i, 4 * i + 4)) for i in range(100_000)}, bytes(400_000)
    ),
    "a name of a megabyte": lambda: with_header({"n" * 1_000_000: entry()}, bytes(4)),
    "nested deeply": lambda: with_header(b"[" * 200_000),
    "a long number": lambda: with_header(b'{"a": ' + b"9" * 5000 + b"}"),
    "pickled": lambda: pickle.dumps({"a": 1}),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_an_invalid_file_is_refused_at_once(kind: str, path: Path) -> None:
    path.write_bytes(HEADERS[kind]())
    assert isinstance(refusal(path), CheckpointCorruptError)


@pytest.mark.parametrize("name", ["", "../x", "\0", "a/b", "\x1b[31mred", "training/losses"])
def test_names_of_tensors_are_only_names(name: str, path: Path) -> None:
    path.write_bytes(signed(TABLE | {name: torch.zeros(1)}))
    if name.startswith("training/"):
        assert tinygpt.load(path)[0].vocab_size == 3
    else:
        assert f"{name!r} is not in the model" in str(refusal(path)) if name.isprintable() else refusal(path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", ["directory", "pipe", "device", "larger than can be read"])
def test_a_pipe_or_device_is_refused_without_waiting(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "x"
    if kind == "directory":
        target.mkdir()
    elif kind == "pipe":
        os.mkfifo(target)
    elif kind == "device":
        target.symlink_to("/dev/zero")
    else:
        with target.open("wb") as file:
            file.truncate(1 << 40)  # takes no space
    assert "cannot read" in str(refusal(target))


class Bomb:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def pickled(bomb: Bomb) -> bytes:
    return pickle.dumps(bomb)


def zipped(bomb: Bomb) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(bomb))
    return buffer.getvalue()


def torch_saved(bomb: Bomb) -> bytes:
    buffer = io.BytesIO()
    torch.save(bomb, buffer)
    return buffer.getvalue()


def torch_saved_as_of_old(bomb: Bomb) -> bytes:
    buffer = io.BytesIO()
    torch.save(bomb, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def tarred(bomb: Bomb) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        member = tarfile.TarInfo("pickle")
        member.size = len(pickle.dumps(bomb))
        file.addfile(member, io.BytesIO(pickle.dumps(bomb)))
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".json", ".npz", ""])
@pytest.mark.parametrize("make", [pickled, zipped, torch_saved, torch_saved_as_of_old, tarred])
def test_a_pickle_is_never_opened(make: Callable[[Bomb], bytes], suffix: str, tmp_path: Path) -> None:
    sentinel, target = tmp_path / "sentinel", tmp_path / f"model{suffix}"
    target.write_bytes(make(Bomb(sentinel)))
    assert "it looks like a pickle, zip or tar file, which is never opened" in str(refusal(target))
    assert not sentinel.exists()


# --- files whose digest holds, made by somebody who knows the format --------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"vocab_size": 2**40, "block_size": 2}, "invalid settings"),
        ({"vocab_size": 3, "block_size": 2, "n_layer": 10**6, "n_embd": 1, "n_head": 1}, "invalid settings"),
        ({"vocab_size": True}, "got vocab_size=True"),
        ({"vocab_size": 3.0}, "got vocab_size=3.0"),
        ({"vocab_size": "3"}, "got vocab_size='3'"),
        ({"vocab_size": 3, "_target_": "os.system"}, "invalid settings"),
        ({"vocab_size": 3, "__class__": "x"}, "invalid settings"),
        ({"vocab_size": 3, "device": "cuda:0; rm"}, "invalid settings"),
        ({"vocab_size": 3, "auto_map": {"AutoModel": "evil.py"}}, "invalid settings"),
    ],
    ids=str,
)
@pytest.mark.parametrize("model", ["BigramLanguageModel", "GPTLanguageModel"])
def test_invalid_settings_are_refused(model: str, config: dict[str, Any], message: str, path: Path) -> None:
    path.write_bytes(signed(TABLE, config=config, model=model))
    error = refusal(path)
    assert model == "GPTLanguageModel" or message in str(error)


@pytest.mark.parametrize(
    "sizes",
    [
        {"vocab_size": 2**30},
        {"block_size": 2**31},
        {"n_layer": 10**7, "n_embd": 2, "n_head": 1},
        {"n_embd": 2**16, "n_head": 1},
    ],
    ids=str,
)
def test_a_huge_config_beside_small_tensors_costs_nothing(sizes: dict[str, Any], path: Path) -> None:
    config = {"vocab_size": 3, "block_size": 2, "n_layer": 1, "n_head": 1, "n_embd": 2, "dropout": 0.0} | sizes
    path.write_bytes(signed(TABLE, config=config | {"layout": "notebook"}, model="GPTLanguageModel"))
    assert isinstance(refusal(path), CheckpointMismatchError | CheckpointCorruptError)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": True}, "format must be"),
        ({"format": "1"}, "format must be"),
        ({"model": None}, "model must be"),
        ({"config": []}, "config must be"),
        ({"tokenizer": "abc"}, "tokenizer must be"),
        ({"training": 3}, "training must be"),
        ({"more": 1}, "payload and its sha256"),
        ({"model": "os.system"}, "composed or changed by hand"),
    ],
    ids=str,
)
def test_an_invalid_payload_is_refused(changes: dict[str, Any], message: str, path: Path) -> None:
    path.write_bytes(signed(TABLE, **changes))
    assert message in str(refusal(path))


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        (["a", "b", "a"], "at positions 0 and 2"),
        (["a", "", "c"], "at position 1"),
        (["a", "bc"], "at position 1"),
        (["a", 7], "at position 1"),
        ([chr(number) for number in range(32, 100_000) if not 0xD800 <= number < 0xE000], "ids for a model of 3"),
    ],
    ids=["twice", "empty", "two", "number", "many"],
)
def test_an_invalid_tokenizer_is_refused(symbols: list[Any], message: str, path: Path) -> None:
    tokenizer = {"type": "CharTokenizer", "symbols": symbols, "on_unknown": "error"}
    path.write_bytes(signed(TABLE, tokenizer=tokenizer))
    assert message in str(refusal(path))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"table.weight": torch.full((3, 3), torch.nan)}, "contains NaN in 'table.weight'"),
        ({"table.weight": torch.zeros(3, 3, dtype=torch.int64)}, "torch.int64"),
        ({"table.weight": torch.zeros(9)}, r"is (9,) torch.float32, expected (3, 3)"),
        ({}, "table.weight is missing"),
        ({"_orig_mod.table.weight": torch.zeros(3, 3)}, "'_orig_mod.table.weight' is not in the model"),
    ],
    ids=["NaN", "integers", "other shape", "missing", "prefix"],
)
def test_tensors_that_do_not_fit_are_refused(tensors: dict[str, Tensor], message: str, path: Path) -> None:
    path.write_bytes(signed(tensors))
    assert message in str(refusal(path))


def test_nan_is_not_saved_but_infinite_weights_are(path: Path) -> None:
    model = BigramLanguageModel(3)
    before = path.read_bytes()
    with torch.no_grad():
        model.table.weight[1, 2] = torch.nan
    with pytest.raises(NonFiniteError, match=r"weights must not be NaN to be saved, got NaN in table\.weight"):
        tinygpt.save(path, model)
    assert path.read_bytes() == before
    with torch.no_grad():
        model.table.weight[1, 2] = -torch.inf  # the logarithm of a count of 0
        model.table.weight[1, 1] = torch.inf
    tinygpt.save(path, model)
    assert torch.equal(tinygpt.load(path)[0].get_parameter("table.weight"), model.table.weight)


def test_numbers_in_sixteen_bits_come_back_as_such(path: Path) -> None:
    model = BigramLanguageModel(3).bfloat16()
    tinygpt.save(path, model)
    assert tinygpt.load(path)[0].get_parameter("table.weight").dtype == torch.bfloat16


@pytest.mark.parametrize(
    "change",
    [
        {"step": "1"},
        {"step": 10**30},
        {"evaluations": [{"a": 1}]},
        {"numbers": {"x": {}}},
        {"numbers": {"0": 1}},
        {"x": 1},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*going back to an older checkpoint")
def test_a_checkpoint_with_a_strange_state_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    next(iter(trainer))
    trainer.save()
    for file in tmp_path.glob("step-*"):
        payload, tensors = read(file)
        payload["training"] |= change
        write(file, tensors, payload)
    again = make_trainer(tmp_path)
    with pytest.raises(CheckpointCorruptError):
        again.resume()
    assert again.steps_taken == 0


# --- random bytes -----------------------------------------------------------------------------------------------------

with tempfile.TemporaryDirectory() as _directory:
    tinygpt.save(Path(_directory) / "seed", BigramLanguageModel(3), CharTokenizer("abc"))
    SEED = (Path(_directory) / "seed").read_bytes()


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """Draw a file that was a model before somebody changed some of it."""
    raw = bytearray(SEED)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(raw)))
        raw[start : start + draw(st.integers(0, 20))] = draw(st.binary(max_size=20))
    return bytes(raw)


def check_only_typed_errors(raw: bytes, path: Path) -> None:
    path.write_bytes(raw)
    if raw == SEED:
        tinygpt.load(path)
    else:
        with pytest.raises(CheckpointError):
            tinygpt.load(path)


FUZZED = st.one_of(st.binary(max_size=4096), mutations(), st.binary(max_size=300).map(with_header))


@settings(max_examples=200)
@given(raw=FUZZED)
def test_random_files_raise_only_typed_errors(raw: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    check_only_typed_errors(raw, tmp_path_factory.getbasetemp() / "fuzzed")


@pytest.mark.slow
@settings(max_examples=10_000)
@given(raw=FUZZED)
def test_ten_thousand_random_files(raw: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    check_only_typed_errors(raw, tmp_path_factory.getbasetemp() / "fuzzed")


# --- nothing else happens ---------------------------------------------------------------------------------------------

FORBIDDEN_NAMES = {"eval", "exec", "__import__", "compile"}
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "joblib", "importlib", "subprocess", "yaml", "ctypes"}
FORBIDDEN_CALLS = {"torch.load", "torch.save", "np.load", "numpy.load", "os.system", "os.popen"}


def suspects(source: str) -> Iterator[str]:
    """Yield everything in a source that could run foreign code."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in FORBIDDEN_NAMES:
            yield ast.unparse(node.func)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in FORBIDDEN_CALLS:
            yield ast.unparse(node)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            yield f"{node.module}: {', '.join(alias.name for alias in node.names)}"


def test_the_library_has_nothing_that_runs_code_from_a_file() -> None:
    found = {
        f"{path.name}: {suspect}"
        for path in Path(tinygpt.__file__).parent.rglob("*.py")
        for suspect in suspects(path.read_text(encoding="utf-8"))
    }
    # The first finds the files of an installed package, the second imports the modules of this package.
    assert found == {
        "corpora.py: importlib: metadata",
        "lazy.py: importlib: import_module",
        "doctor.py: importlib: metadata",  # versions
        "serve.py: importlib.resources: files",  # the page of the package itself
    }


def test_a_source_that_unpickles_would_be_noticed() -> None:
    planted = "import pickle, torch\nfrom importlib import import_module\ntorch.load(x)\neval('1')"
    assert sorted(suspects(planted)) == ["eval", "importlib: import_module", "pickle", "torch.load"]


WATCHED = """
import pickle, sys
from pathlib import Path
directory = Path(sys.argv[1])
sys.path.insert(0, sys.argv[2])
import torch, tinygpt
from killable import make_trainer
from tinygpt.errors import CheckpointCorruptError

class Bomb:
    def __reduce__(self):
        return (Path.touch, (directory / "sentinel",))

(directory / "bad").write_bytes(pickle.dumps(Bomb()))
torch.set_num_threads(1)

torch.set_default_dtype(torch.float64)
trainers = [make_trainer(directory / "run") for _ in range(2)]  # here, since PyTorch reads sources to seed itself

def work():
    torch.set_default_dtype(torch.float32)
    model, tokenizer = tinygpt.load(directory / "run" / "best.safetensors")
    tinygpt.Sampler(model, tokenizer).generate("the", max_new_tokens=5)
    trainers.pop().resume()
    try:
        tinygpt.load(directory / "bad")
    except CheckpointCorruptError:
        return "refused"

watching = []
def watch(event, arguments):
    if not watching:
        return
    if event == "open":
        name = str(arguments[0])
        suspect = not (name.startswith(str(directory)) or name.isdigit())
    else:
        suspect = event.split(".")[0] in ("socket", "subprocess", "pickle", "exec", "compile", "import", "ctypes")
        suspect |= event in ("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.remove", "os.rename")
        suspect &= not (event in ("os.remove", "os.rename") and str(arguments[0]).startswith(str(directory)))
    if suspect:
        print(event, arguments)

sys.addaudithook(watch)
work()  # once, so that what is imported on first use is there
watching.append(True)
found = work()
watching.clear()
print(found)
"""


def test_loading_resuming_and_sampling_reach_nothing_else(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float64)
    make_trainer(tmp_path / "run").fit(progress=False)
    script = tmp_path / "watched.py"
    script.write_text(WATCHED, encoding="utf-8")
    arguments = [sys.executable, str(script), str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True)
    assert done.stdout == "refused\n", done.stderr
    assert not (tmp_path / "sentinel").exists()


def test_a_model_does_not_depend_on_its_file(path: Path) -> None:
    """The file is cut while the model is in use."""
    model, tokenizer = tinygpt.load(path)
    assert tokenizer is not None
    expected = tinygpt.Sampler(model, tokenizer).generate("a", max_new_tokens=20, seed=1)
    with path.open("r+b") as file:
        file.truncate(10)
    assert tinygpt.Sampler(model, tokenizer).generate("a", max_new_tokens=20, seed=1) == expected


def test_a_model_may_overwrite_its_own_file(path: Path) -> None:
    model, tokenizer = tinygpt.load(path)
    before = path.read_bytes()
    tinygpt.save(path, model, tokenizer)
    assert path.read_bytes() == before


def test_a_file_is_read_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    real = Path.open

    def counted(self: Path, *arguments: Any) -> Any:
        reads.append(self)
        return real(self, *arguments)

    monkeypatch.setattr(Path, "open", counted)
    tinygpt.load(path)
    assert reads == [path]


def test_a_file_says_nothing_about_the_machine(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    next(iter(trainer))
    target = trainer.save()
    assert target is not None
    training = envelope_of(target.read_bytes())["payload"]["training"]
    assert training.keys() == {"step", "settings", "corpus", "evaluations", "optimizer", "scaler", "seconds", "planned"}
    text = json.dumps(training)
    for secret in (os.uname().nodename, str(tmp_path), str(Path.home()), os.environ.get("USER", "no user")):
        assert secret not in text or len(secret) < 3


@pytest.mark.slow
def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    target = tmp_path / "model"
    model = GPTConfig(vocab_size=9, block_size=8, n_layer=2, n_head=2, n_embd=32).build()

    def write(first: int, last: int) -> None:
        for number in range(first, last):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.fill_(number)
            tinygpt.save(target, model)

    def read() -> None:
        seen = set()
        for _ in range(300):
            loaded, _ = tinygpt.load(target)
            values = {float(v) for p in loaded.parameters() for v in (p.detach().min(), p.detach().max())}
            assert len(values) == 1
            seen |= values
        assert len(seen) > 1  # else nobody wrote meanwhile

    write(0, 1)
    children = [in_child(lambda: write(1, 201)), *(in_child(read) for _ in range(4))]
    assert [exit_code(child) for child in children] == [0] * 5


# --- blocks, dtypes, sizes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0,), (1,)], ids=str)
@pytest.mark.parametrize("prefix", ["", "blocks."], ids=["any name", "names of blocks"])
def test_blocks_without_weights_are_not_built(shape: tuple[int, ...], prefix: str, path: Path) -> None:
    """The file has as many tensors as blocks, each of a few bytes."""
    count = 5_000
    config = {"vocab_size": 3, "block_size": 2, "n_layer": count, "n_head": 1, "n_embd": 2, "dropout": 0.0}
    tensors = {f"{prefix}{number}.attention.qkv.weight": torch.zeros(shape) for number in range(count)}
    path.write_bytes(signed(tensors, config=config | {"layout": "notebook"}, model="GPTLanguageModel"))
    assert f"n_layer={count} and n_embd=2 need at least 20000 tensors of 240000 weights in blocks" in str(refusal(path))


def test_enough_weights_in_few_tensors_are_refused(path: Path) -> None:
    count = 5_000
    config = {"vocab_size": 3, "block_size": 2, "n_layer": count, "n_head": 1, "n_embd": 2, "dropout": 0.0}
    tensors = {"blocks.0.attention.qkv.weight": torch.zeros(12 * 4 * count)}
    path.write_bytes(signed(tensors, config=config | {"layout": "notebook"}, model="GPTLanguageModel"))
    assert "weights in blocks, got 1 of 240000" in str(refusal(path))


def test_numbers_in_eight_bits_are_refused_both_ways(path: Path) -> None:
    path.write_bytes(signed({"table.weight": torch.zeros(3, 3).to(torch.float8_e4m3fn)}))
    assert "contains 'table.weight' in torch.float8_e4m3fn, which is not supported" in str(refusal(path))
    before = path.read_bytes()
    for dtype in (torch.float8_e5m2, torch.float8_e4m3fn):
        model = BigramLanguageModel(3).to(dtype)
        with pytest.raises(InputTypeError, match=f"to be saved, got {dtype} in table"):
            tinygpt.save(path, model)
    assert path.read_bytes() == before


def test_several_dtypes_need_a_model_that_has_them(path: Path) -> None:
    config = GPTConfig(vocab_size=3, block_size=2, n_layer=1, n_head=1, n_embd=2)
    model = config.build()
    model.head.bfloat16()
    tinygpt.save(path, model)
    assert "must contain weights of one dtype, got torch.bfloat16, torch.float32" in str(refusal(path))
    into = config.build()
    into.head.bfloat16()
    loaded = tinygpt.load(path, into=into)[0]
    assert torch.equal(loaded.get_parameter("head.weight"), model.get_parameter("head.weight"))


def test_a_file_larger_than_memory_is_refused(path: Path) -> None:
    assert max(8 << 30, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) <= MOST_BYTES
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    assert f"{MOST_BYTES + 1:,} bytes, more than {MOST_BYTES:,}" in str(refusal(path))


OTHERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a text": (lambda: b"First Citizen:\nBefore we proceed any further, hear me speak.\n" * 9, "read_text"),
    "a text in two bytes": (lambda: "Primero: ¿qué tal? ".encode() * 99, "read_text"),
    "a web page": (lambda: b"\n<!DOCTYPE html>\n<html><title>404</title></html>", "looks like a web page.; download"),
    "a Git LFS pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
    "nothing": (lambda: b"", "is empty; a save or a download was interrupted"),
    "a pickle": (lambda: pickle.dumps({"model": 1}), "save it again with tinygpt.save"),
    "a checkpoint of nanoGPT": (
        (Path(__file__).parent / "interop/nanogpt.pt").read_bytes,
        r"of nanoGPT.; load it with torch\.load\(.*weights_only=True\), then use interop\.load_nanogpt",
    ),
    "weights of a GPT-2": (
        lambda: safetensors.torch.save({"transformer.h.0.ln_1.weight": torch.zeros(3)}),
        r"a GPT-2 of Hugging Face.; use interop\.load_huggingface with the folder",
    ),
    "weights of another program": (
        lambda: safetensors.torch.save({"wte.weight": torch.zeros(3)}),
        r"safetensors file of another program.; build the model and use model.load_state_dict",
    ),
}


@pytest.mark.parametrize(("make", "message"), OTHERS.values(), ids=OTHERS.keys())
def test_a_file_of_another_kind_is_named_with_the_way_out(make: Callable[[], bytes], message: str, path: Path) -> None:
    path.write_bytes(make())
    error = str(refusal(path))
    assert re.search(f"is not a model file of tinygpt.*{message}", error), error
    assert len(error.replace(repr(str(path)), "")) <= 180  # a path may have 120
    assert not re.search(r"\d\.\.\.|\.\.\.\d", error)  # no number is cut in half


def test_the_directory_of_a_run_names_a_file_in_it(tmp_path: Path) -> None:
    make_trainer(tmp_path / "run", max_iters=1).fit(progress=False)
    with pytest.raises(CheckpointError, match=r"it is a directory, load a file in it, e.g. best.safetensors"):
        tinygpt.load(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"it is not a regular file$"):
        tinygpt.load(tmp_path)
