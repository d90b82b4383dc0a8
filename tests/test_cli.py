"""The command line: its verbs, messages, exit codes and streams."""

import io
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
import urllib.request
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import faults
import pytest
import torch
from builders import TEXT, make_gpt
from faults import broken_by
from killable import exit_code, in_child, outcome

import tinygpt
from tinygpt import GPTConfig, TrainerConfig, interop, views
from tinygpt.checkpoint import read
from tinygpt.cli import VERBS, main
from tinygpt.cli.settings import TABLES, ModelFlags, TrainerFlags
from tinygpt.errors import short
from tinygpt.training.step import Stepper

ROOT = Path(__file__).parent.parent
SIZES = ["--n-layer", "1", "--n-head", "2", "--n-embd", "8", "--block-size", "8", "--batch-size", "4"]
SMALL = [*SIZES, "--max-iters", "12", "--eval-interval", "4", "--preview-tokens", "5"]
WORDS = "źródło: zażółć gęślą jaźń. " * 30
PROGRAM = """
import sys
from tinygpt.cli import main
code = main(sys.argv[1:])
assert not {"torch", "pandas", "matplotlib"} & sys.modules.keys()
sys.exit(code)
"""


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "verse.txt").write_text(TEXT, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the directory of a run that the command line has trained."""
    torch.set_default_dtype(torch.float64)
    directory = tmp_path_factory.mktemp("trained")
    (directory / "verse.txt").write_text(TEXT, encoding="utf-8")
    assert main(["train", str(directory / "verse.txt"), "-o", str(directory / "run"), *SMALL]) == 0
    return str(directory / "run")


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that runs a command line and returns its exit code, its output and its notes."""

    def run_line(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(arguments)
        return code, *capsys.readouterr()

    return run_line


# --- help and usage ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--help"], 0), (["--version"], 0), (["train", "--nonsense"], 2)],
    ids=["help", "version", "nonsense"],
)
def test_help_needs_no_torch(arguments: list[str], code: int, encoding: str) -> None:
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    line = [sys.executable, "-W", "error", "-c", PROGRAM, *arguments]
    done = subprocess.run(line, capture_output=True, text=True, encoding=encoding, env=environment)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert bool(done.stdout) == (code == 0)


def test_the_script_of_the_package_is_main() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert scripts == {"tinygpt": "tinygpt.cli:main"}


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_explains_each_flag(verb: str, said: Any) -> None:
    code, out, err = said(verb, "--help")
    assert (code, err) == (0, "")
    assert VERBS[verb].__doc__.splitlines()[0] in out  # type: ignore[union-attr]
    assert not re.search(r"``|:\w+:`|Args:|Raises:", out)
    for row in re.findall(r"│ (-.*?)│\n│(.*?)│", out):
        assert re.search(r"[a-z]{3}.*[a-z]{3}", row[0].partition("  ")[2] + row[1]), row


@pytest.mark.parametrize("no_color", ["", "1"])
def test_the_help_has_colours_unless_told_otherwise(
    no_color: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", no_color)
    assert main(["info", "--help"]) == 0
    assert ("\x1b" in capsys.readouterr().out) == (not no_color)


def test_the_flags_are_the_settings() -> None:
    """So that a new setting has its flag, and each flag sets something."""
    of_model = tuple(each.name for each in fields(GPTConfig) if each.name != "vocab_size")
    of_trainer = tuple(each.name for each in fields(TrainerConfig) if each.name != "block_size")
    assert {"model": of_model, "trainer": of_trainer} == TABLES
    for flags, config in ((ModelFlags, GPTConfig), (TrainerFlags, TrainerConfig)):
        for each in fields(flags):
            kind, wanted = (get_type_hints(where)[each.name] for where in (flags, config))
            assert kind in (wanted, wanted | None) or (flags, each.name) == (TrainerFlags, "block_size")
            assert each.default is not MISSING


def test_a_trained_model_is_shown_beside_a_table(tmp_path: Path, said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --mixture the mixture of both is saved, and has the loss that the note says."""
    monkeypatch.chdir(tmp_path)
    Path("verse.txt").write_text(TEXT, encoding="utf-8")
    code, out, err = said("train", "verse.txt", "-o", "run", *SMALL, "--mixture")
    assert (code, out) == (0, "")
    assert re.search(
        r"its loss is \d\.\d{3} nats on the validation split; a table of counted 7-grams has 0\.\d{3}, which is better",
        err,
    )
    told = re.search(
        r"their mixture, 0.4 of the model and 0.6 of the table, has ([\d.]+)(.*): run/mixture.safeten", err
    )
    assert told
    assert told[2] == ", which is worse than one of them"  # the text repeats itself, so the table knows it all
    model, tokenizer = tinygpt.load("run/mixture.safetensors")
    data = tinygpt.TokenDataset(TEXT, tokenizer)
    assert f"{tinygpt.evaluate(model, data, block_size=8).nats:.3f}" == told[1]
    assert said("write", "run/mixture.safetensors", "the", "-n", "9")[0] == 0
    said("train", "--resume", "run", "--max-iters", "8")
    monkeypatch.setattr("tinygpt.cli.training._MOST_COUNTED", 10)
    assert "too long to count 7-grams beside the model" in said("train", "--resume", "run", "--max-iters", "14")[2]


def test_train_has_help_for_each_setting_and_its_choices(said: Any) -> None:
    _, out, _ = said("train", "--help")
    for name in (*TABLES["model"], *TABLES["trainer"]):
        assert f"--{name.replace('_', '-')}" in out
    for config, name in ((GPTConfig, "layout"), (TrainerConfig, "optimizer"), (TrainerConfig, "precision")):
        words = get_args(next(each.type for each in fields(config) if each.name == name))
        assert f"--{name} {{{','.join(words)}}}" in out
    assert "Seed of the initial weights, batches, dropout and previews." in " ".join(re.sub("│", " ", out).split())


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("trian verse.txt", "tinygpt has no verb 'trian'; did you mean 'train'?"),
        ("generate runs/verse", "tinygpt has no verb 'generate'; did you mean 'write'?"),
        ("verse.txt", "tinygpt needs a verb before 'verse.txt', e.g. tinygpt train verse.txt"),
        ("xyz", "tinygpt has no verb 'xyz'; see tinygpt --help"),
        ("train verse.txt --lr 1", "train has no flag --lr; did you mean --learning-rate?"),
        ("train verse.txt --heads=2", "train has no flag --heads; did you mean --n-head?"),
        ("write m --max-tokens 3", "write has no flag --max-tokens; did you mean --max-new-tokens?"),
        ("write m --prompt=to", "prompt is an argument of write without a flag; see tinygpt write --help"),
        ("train verse.txt --n-layer abc", "--n-layer cannot be 'abc'; see tinygpt train --help"),
        ("write m -n many", "-n/--max-new-tokens cannot be 'many'; see tinygpt write --help"),
        ("write", "MODEL is missing: A model file, or the directory of a run; see tinygpt write --help"),
        ("--seed 3 train verse.txt", "tinygpt needs a verb before --seed; see tinygpt --help"),
        ("train verse.txt --model gpt", "train has no flag --model; see tinygpt train --help"),
        ("write m to be", "write got an unexpected argument 'be'; quote a text that contains spaces"),
        ("train", "train needs a text or a run: tinygpt train FILE, or tinygpt train --resume RUN"),
        ("train verse.txt --n-head 3 --n-embd 8", "n_head must divide n_embd, got n_embd=8 and n_head=3; use n_embd=6"),
        ("train verse.txt --minutes 0", "minutes must be a number above 0, got minutes=0.0"),
        ("compare", "compare needs the directories of runs, or one text file without -o, got nothing"),
    ],
)
def test_a_slip_of_usage_is_answered_in_one_line(line: str, answer: str, said: Any) -> None:
    code, out, err = said(*line.split())
    assert (code, out) == (2, "")
    assert re.fullmatch(f"tinygpt: error: {re.escape(answer)}.*\n", err)


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("train vers.txt", "there is no file 'vers.txt'; did you mean 'verse.txt'?"),
        ("train .", "'.' is a directory; did you mean 'empty.txt'?"),
        ("train empty.txt", "corpus is empty: 'empty.txt' has 0 bytes"),
        ("train latin.txt", "name its encoding, perhaps --encoding latin-1"),
        ("train verse.txt -o empty.txt", "Not a directory; use another directory with -o"),
        ("train noise.txt", "pass a text file, or its --encoding"),
        ("view runs/verse the -o nix/page.html", "No such file or directory: 'nix/page.html'"),
        ("write verse", "there is no file or directory 'verse'; did you mean 'runs/verse'?"),
        ("write runs/vrse", "there is no file or directory 'runs/vrse'; did you mean 'runs/verse'?"),
        ("write runs", "'runs' is a directory without a model best.safetensors; did you mean 'runs/verse'?"),
        ("write verse.txt", "it looks like a text; use tinygpt train FILE first"),
        ("info nix", "there is no file or directory 'nix'"),
        ("train --resume runs/vrse", "there is no file or directory 'runs/vrse'; did you mean 'runs/verse'?"),
        ("train --resume runs", "'runs' is not the directory of a run; did you mean 'runs/verse'?"),
        ("train --resume runs/verse/best.safetensors", "is not the directory of a run; did you mean 'runs/verse'?"),
        ("train --resume verse.txt", "'verse.txt' is not the directory of a run; it has no config.json"),
    ],
)
def test_a_wrong_file_is_answered_in_one_line(line: str, answer: str, said: Any, run: str) -> None:
    Path("runs").mkdir()
    Path("runs/verse").symlink_to(run)
    Path("empty.txt").touch()
    Path("noise.txt").write_bytes(bytes(range(256)) * 9)
    Path("latin.txt").write_bytes("Der Wein ist für die Gäste, über den Häusern. ".encode("latin-1") * 9)
    code, out, err = said(*line.split())
    assert (code, out) == (1, "")
    assert err.startswith("tinygpt: error: ")
    assert answer in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "way"),
    [("to be, or not to be", "save it in a file first\n"), ("to b" * 100, "use a shorter path\n")],
    ids=["text", "long"],
)
def test_a_text_in_place_of_its_file_is_told_so(text: str, way: str, said: Any) -> None:
    code, out, err = said("train", text)
    assert (code in (1, 2), out) == (True, "")
    assert err.endswith(way)


def test_an_error_has_its_traceback_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYGPT_TRACEBACK", "1")
    with pytest.raises(tinygpt.errors.DataError):
        main(["train", "nix.txt"])


# --- train ------------------------------------------------------------------------------------------------------------


@broken_by(faults.seed_not_passed)
def test_a_model_is_trained_and_writes(said: Any) -> None:
    code, out, log = said("train", "verse.txt", *SMALL)
    assert (code, out) == (0, "")
    assert "\r" not in log
    assert "best validation loss" in log
    assert "tinygpt write runs/verse" in log
    texts = [said("write", "runs/verse", "-n", "50", "--seed", "1") for _ in range(2)]
    assert texts[0] == texts[1]
    assert texts[0][0] == 0
    assert len(texts[0][1]) == 51
    assert texts[0][1].endswith("\n")
    assert texts[0][2] == ""


def test_the_chosen_settings_are_flags_that_repeat_the_run(said: Any) -> None:
    _, out, log = said("train", "verse.txt", "--minutes", "0.01", "--preview-tokens", "0")
    assert out == ""
    flags = re.search("the settings as flags: (.*)", log)
    assert flags
    assert said("train", "verse.txt", "-o", "again", *flags[1].split())[0] == 0
    assert outcome(Path("again")) == outcome(Path("runs/verse"))


def test_a_bigram_and_a_gpt_are_compared_on_a_text(said: Any) -> None:
    code, out, _ = said("compare", "verse.txt", "--minutes", "0.01")
    assert code == 0
    assert [row.split()[0] for row in out.splitlines()[2:5]] == ["even", "bigram", "gpt"]
    assert not Path("runs").exists()


def test_a_second_run_does_not_overwrite_the_first(said: Any) -> None:
    assert said("train", "verse.txt", *SMALL)[0] == 0
    code, _, err = said("train", "verse.txt", *SMALL)
    assert code == 1
    assert "'runs/verse' contains a run; continue it with: tinygpt train --resume runs/verse" in err


@broken_by(faults.flags_not_noticed)
def test_flags_win_over_the_file_of_settings(said: Any) -> None:
    """In either spelling, and where the flag has the default."""
    table = "n_layer = 1\nn_head = 2\nn_embd = 8\nblock_size = 8\n"
    trainer = "max_iters = 3\nbatch_size = 5\nbetas = [0.5, 0.6]\ngrad_clip = 'None'\npreview_tokens = 0"
    Path("c.toml").write_text(f"[model]\n{table}[trainer]\n{trainer}", encoding="utf-8")
    line = ["train", "verse.txt", "--config", "c.toml", "--batch_size=16", "--n-embd", "12"]
    assert said(*line)[0] == 0
    found = json.loads(Path("runs/verse/config.json").read_text(encoding="utf-8"))
    assert (found["model"]["n_embd"], found["model"]["n_layer"]) == (12, 1)
    assert (found["trainer"]["max_iters"], found["trainer"]["batch_size"]) == (3, 16)
    assert (found["trainer"]["betas"], found["trainer"]["grad_clip"]) == ([0.5, 0.6], None)


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("[trainer]\nmax_iter = 3", "'c.toml' has no setting 'max_iter' in [trainer]; did you mean 'max_iters'?"),
        ("[trainer]\nblock_size = 3", "'c.toml' has no setting 'block_size' in [trainer]; put it under [model]"),
        ("[trainr]\nmax_iters = 3", "'c.toml' has no table [trainr]; did you mean 'trainer'?"),
        ("max_iters = 3", "'c.toml' has 'max_iters' outside a table; put it under [trainer]"),
        ("max_iters: 3", "'c.toml' is not a TOML file"),
        ("[trainer]\nmax_iters = 'many'", "max_iters must be an integer of at least 1, got max_iters='many'"),
        ("[model]\nlayout = 'modrn'", "did you mean 'modern'?"),
    ],
)
def test_a_slip_in_the_file_of_settings_is_named(content: str, answer: str, said: Any) -> None:
    Path("c.toml").write_text(content, encoding="utf-8")
    code, out, err = said("train", "verse.txt", "--config", "c.toml")
    assert (code, out) == (2, "")
    assert answer in err
    assert not Path("runs").exists()


@pytest.fixture(scope="module")
def uninterrupted(run: str) -> dict[str, str]:
    return outcome(Path(run))


@broken_by(faults.optimizer_forgotten, only="SIGINT")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_an_interrupted_run_resumes_to_the_same_weights(
    number: signal.Signals, code: int, uninterrupted: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, from another directory, without a setting named again."""

    directory = str(Path("run").absolute())

    def interrupted() -> None:
        real = Stepper.take

        def take(self: Stepper, step: int) -> Any:
            if step == 5:
                os.kill(os.getpid(), number)
            return real(self, step)

        monkeypatch.setattr(Stepper, "take", take)
        sys.exit(main(["train", "verse.txt", "-o", "run", *SMALL]))

    def resumed() -> None:
        os.chdir("/")
        sys.exit(main(["train", "--resume", directory]))

    assert exit_code(in_child(interrupted)) == code
    assert Path(directory, "step-00000006.safetensors").exists()
    assert exit_code(in_child(resumed)) == 0
    assert outcome(Path(directory)) == uninterrupted


def test_a_run_is_resumed_with_its_own_text(said: Any) -> None:
    assert said("train", "verse.txt", *SMALL)[0] == 0
    Path("verse.txt").rename("moved.txt")
    code, _, err = said("train", "--resume", "runs/verse", "--max-iters", "13")
    assert code == 1
    assert "name it: tinygpt train FILE --resume RUN" in err
    assert said("train", "moved.txt", "--resume", "runs/verse", "--max-iters", "13")[0] == 0
    assert "the run had no step left to take; use a --max-iters above 13" in said("train", "--resume", "runs/verse")[2]
    Path("moved.txt").write_text(TEXT + "more", encoding="utf-8")
    code, _, err = said("train", "--resume", "runs/verse")
    assert code == 1
    assert re.search("must be that of the run.*sha256 [0-9a-f]{12}.*[0-9a-f]{12}", err)


def test_a_new_run_and_a_resumed_one_are_told_apart(said: Any, run: str) -> None:
    code, _, err = said("train", "--resume", run, "-o", "other")
    assert code == 2
    assert "leave out -o" in err


# --- streams ----------------------------------------------------------------------------------------------------------


def test_a_terminal_of_few_characters_ends_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("words.txt").write_text(WORDS, encoding="utf-8")
    raw = io.BytesIO()

    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True  # so that previews are shown

    monkeypatch.setattr(sys, "stderr", Terminal(raw, encoding="cp1252", errors="strict"))
    assert main(["train", "words.txt", *SMALL, "--preview-tokens", "300"]) == 0
    assert b"best validation loss" in raw.getvalue()
    assert rb"\u017a" in raw.getvalue()


def test_a_reader_of_the_log_that_leaves_ends_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        assert main(["train", "verse.txt", *SMALL]) == 0


def test_a_reader_that_leaves_ends_the_text(run: str) -> None:
    line = [sys.executable, "-m", "tinygpt", "write", run, "-n", "1000000"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writing:
        assert writing.stdout
        assert writing.stderr
        assert len(writing.stdout.read(30)) == 30
        writing.stdout.close()
        assert writing.wait(60) == 141
        assert re.fullmatch(rb"seed \d+\s+", writing.stderr.read())


def test_a_warning_is_one_line(said: Any) -> None:
    Path("dos.txt").write_bytes(TEXT.replace(". ", ".\r\n").encode())
    code, _, err = said("train", "dos.txt", *SMALL)
    assert code == 0
    warning, *others = [line for line in err.splitlines() if "warning" in line]
    assert re.match(r"tinygpt: warning: 'dos.txt' has .* save it with the line ends of Unix, LF$", warning)
    assert others == []


# --- the other verbs --------------------------------------------------------------------------------------------------


def test_a_text_is_continued_until_a_stop_string(run: str, said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("the qu"))
    code, out, err = said("write", run, "-", "-t", "0", "-n", "9")
    assert (code, len(out)) == (0, 16)
    assert out.startswith("the qu")
    assert re.fullmatch(r"seed \d+\n", err)
    expected = tinygpt.Sampler.load(f"{run}/best.safetensors").generate("the qu", max_new_tokens=9, temperature=0)
    assert out == f"{expected}\n"
    stopped = said("write", run, "the qu", "-t", "0", "-n", "9", "--stop", expected[10], "--stop", "no such text")[1]
    assert stopped == expected[: expected.index(expected[10], 6)] + "\n"


def test_a_seed_that_is_shown_repeats_the_text(run: str, said: Any) -> None:
    _, out, err = said("write", run, "-n", "20")
    seed = re.fullmatch(r"seed (\d+)\n", err)
    assert seed
    assert said("write", run, "-n", "20", "--seed", seed[1]) == (0, out, "")


def test_an_unknown_character_is_named(run: str, said: Any) -> None:
    code, out, err = said("write", run, "ź")
    assert (code, out) == (1, "")
    assert "text has 'ź' (U+017A) at position 0" in err
    assert "leave it out" in err


def test_info_tells_a_run_a_model_and_a_text_apart(run: str, said: Any) -> None:
    code, out, err = said("info", run)
    assert (code, err) == (0, "")
    assert "verdict" in out
    code, out, _ = said("info", run, "--json")
    facts = json.loads(out)
    assert facts["settings"]["n_embd"] == 8
    assert (facts["steps"], facts["of_steps"], "".join(facts["symbols"])) == (12, 12, "".join(sorted(set(TEXT))))
    assert facts["parameters"] == tinygpt.load(f"{run}/best.safetensors")[0].num_parameters()
    model = json.loads(said("info", f"{run}/best.safetensors", "--json")[1])
    assert model == {name: facts[name] for name in model}
    assert "verdict" not in model
    text = json.loads(said("info", "verse.txt", "--json")[1])
    assert (text["characters"], text["symbols"]) == (len(TEXT), sorted(set(TEXT)))


def test_info_reads_a_log_with_damaged_lines(run: str, said: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("best.safetensors", "metrics.jsonl"):
        (copy / name).write_bytes(Path(run, name).read_bytes())
    with (copy / "metrics.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"step": 13, "val_loss"\n[]\n{"loss": "x"}\n{"step": 13, "val_loss": [0]}\n')
    whole, damaged = (json.loads(said("info", each, "--json")[1]) for each in (run, str(copy)))
    assert damaged["loss"] == whole["loss"]
    assert damaged["of_steps"] is None


def test_compare_shows_the_best_run_last(run: str, said: Any) -> None:
    assert said("train", "verse.txt", *SIZES, "--max-iters", "1", "--preview-tokens", "0")[0] == 0
    code, out, err = said("compare", run, "runs/verse", "-o", "curves.png")
    assert (code, err) == (0, "")
    rows = [line.split()[0] for line in out.splitlines()[2:]]
    assert rows == ["runs/verse", run]
    assert Path("curves.png").read_bytes().startswith(b"\x89PNG")
    code, _, err = said("compare", run, "-o", "curves.pgn")
    assert code == 2
    assert "cannot draw into 'curves.pgn': Format 'pgn' is not supported" in err
    Path("other.txt").write_text(TEXT[::-1], encoding="utf-8")
    assert said("train", "other.txt", *SIZES, "--max-iters", "1", "--preview-tokens", "0")[0] == 0
    assert "different texts" in said("compare", run, "runs/other")[2]


def test_score_shows_the_surprise_of_a_text(run: str, said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bits = (-tinygpt.Sampler.load(f"{run}/best.safetensors").score("the dog") / math.log(2)).tolist()
    mean = sum(bits) / 7
    shown = f"the dog\n{mean:.3f} bits per character\n"
    assert said("score", run, "the dog") == (0, shown, "")
    facts = json.loads(said("score", run, "the dog", "--json")[1])
    assert ["".join(facts["pieces"]), facts["bits_per_character"]] == ["the dog", pytest.approx(mean)]
    assert facts["bits"] == pytest.approx(bits, abs=1e-6)
    monkeypatch.setattr(sys, "stdin", io.StringIO("the dog"))
    Path("t.txt").write_text("the dog", encoding="utf-8")
    assert (
        said("score", run, "-")[1]
        == said("score", run, "--file", "t.txt")[1]
        == f"the dog\n{mean:.3f} bits per character\n"
    )
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[38;5;" in said("score", run, "the dog")[1]


def test_score_takes_one_text(run: str, said: Any) -> None:
    for texts in ([], ["the", "--file", "verse.txt"]):
        code, _, err = said("score", run, *texts)
        assert code == 2
        assert "score needs one text: TEXT, - for standard input, or --file F" in err
    code, _, err = said("score", run, "verse.txt")
    assert code == 2
    assert "got the name of a file, 'verse.txt'" in err


@pytest.mark.parametrize("verb", ["write", "score", "view"])
def test_a_text_that_looks_like_a_missing_file_is_refused(run: str, said: Any, verb: str) -> None:
    Path("runs").mkdir()
    for text in ("nofile.txt", "runs/nofile", "https://example.org/a", "x" * 300 + ".txt"):
        code, out, err = said(verb, run, text)
        assert (code, out) == (2, "")
        assert f"got what looks like a path, {short(text)}; use - to read any text" in err
    for text in ("and/or", "/*", "//"):
        assert "looks like a path" not in said(verb, run, text)[2]


def test_view_writes_a_page_of_the_last_tokens(run: str, said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    code, out, err = said("view", run, "the quick dog", "-o", "page.html", "--open")
    assert (code, out) == (0, "page.html\n")
    assert "the page shows the last 8 of 13 tokens" in err
    assert opened == [Path("page.html").absolute().as_uri()]
    sampler = tinygpt.Sampler.load(f"{run}/best.safetensors")
    page = views.read(sampler.model, sampler.tokenizer, "ick dog").page()
    assert said("view", run, "ick dog") == (0, "look.html\n", "")
    assert Path("look.html").read_text(encoding="utf-8") == page


def test_serve_says_where_and_ends_with_ctrl_c(run: str, said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def open_page(url: str) -> None:
        with urllib.request.urlopen(url, timeout=30) as page:
            opened.append(page.read().decode())
        threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()

    monkeypatch.setattr("webbrowser.open", open_page)
    code, out, err = said("serve", run, "--open")
    assert (code, err) == (0, "Ctrl-C ends it\n")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\n", out)
    assert '"title": "run"' in opened[0]


def test_play_takes_digits_lines_and_text(run: str, said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = tinygpt.Sampler.load(f"{run}/best.safetensors")
    first = sampler.generate("", max_new_tokens=1, temperature=0)
    monkeypatch.setattr(sys, "stdin", io.StringIO("\nthe 9\nthe dog\nź\n"))
    code, out, err = said("play", run)
    assert (code, out) == (0, f"{first}the dog\n")
    assert err.count("tinygpt: error: text has") == 2  # 9 and ź are not in the vocabulary
    bits = [float(each) for each in re.findall(r"([\d.]+) in all", err)]
    assert bits[-1] == pytest.approx(-sampler.score(f"{first}the dog").sum().item() / math.log(2), abs=0.01)


def test_play_shows_the_chances_that_it_scores(run: str, said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past block_size too."""
    sampler = tinygpt.Sampler.load(f"{run}/best.safetensors")
    for text in ("the quick brown", "the quick brown fox jumps"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{text}\n"))
        shown = said("play", run)[2].rsplit("1 ", 1)[1].split("%")[0].split()
        best = 2 ** -min(-sampler.score(text + letter)[-1].item() / math.log(2) for letter in set(TEXT))
        assert float(shown[-1]) == pytest.approx(100 * best, abs=0.051)


@pytest.mark.parametrize("line", ["score {run} -", "write {run} -"])
def test_a_closed_or_binary_standard_input_is_told(line: str, run: str) -> None:
    arguments = [sys.executable, "-m", "tinygpt", *line.format(run=run).split()]
    done = subprocess.run(arguments, input=b"the \xff\xfe dog", capture_output=True)
    assert done.returncode == 1
    assert b"U+FFFD" in done.stderr
    closed = subprocess.run(["sh", "-c", f"{shlex.join(arguments)} <&-"], capture_output=True)
    assert (closed.returncode, b"Traceback" in closed.stderr) == (1, False)


def test_hostile_files_reach_no_terminal(run: str, said: Any, tmp_path: Path) -> None:
    """Neither an escape sequence, nor a nesting that breaks a parser, nor a number without end."""
    Path("deep.toml").write_text("a = " + "[" * 100_000, encoding="utf-8")
    assert said("train", "verse.txt", "--config", "deep.toml")[0] == 2
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text('{"trainer": {"\\u001b]0;x": 1}, "model": ""}', encoding="utf-8")
    (tmp_path / "old" / "step-00000001.safetensors").write_bytes(b"")
    code, _, err = said("train", "--resume", str(tmp_path / "old"))
    assert code == 2
    assert "\x1b" not in err
    shutil.copytree(run, tmp_path / "run")
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_text(
        '{"step": 1e999, "val_loss": 1, "train_loss": 1}\n' + log.read_text(encoding="utf-8"), encoding="utf-8"
    )
    assert said("info", str(tmp_path / "run"))[0] == 0
    assert said("write", run, "ź" * 200)[2].startswith("tinygpt: error: text has 'ź'")


def test_play_takes_the_token_of_a_digit(run: str, said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("3\n"))
    _, out, err = said("play", run)
    assert re.search(r"3 '(.)'", err)[1] == out[0]  # type: ignore[index]


def test_doctor_describes_the_machine(said: Any) -> None:
    code, out, err = said("doctor", "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts["torch"] == torch.__version__
    assert facts["devices"].endswith("cpu")
    assert facts["training_step_ms"] > 0
    assert f"torch             {torch.__version__}" in said("doctor")[1]


def test_a_prepared_corpus_is_trained_on(said: Any) -> None:
    """Also when its run is resumed."""
    assert said("prepare", "verse.txt", "-o", "corpus", "--shard-ids", "100")[:2] == (0, "corpus\n")
    assert len(list(Path("corpus").glob("shard-*.bin"))) > 1
    code, out, err = said("prepare", "verse.txt", "-o", "corpus", "--shard-ids", "100")
    assert (code, out) == (0, "corpus\n")
    assert "distinct\nnow try:\n  tinygpt train corpus\n" in err
    assert said("train", "corpus", "-o", "runs/corpus", *SMALL)[0] == 0
    assert said("train", "verse.txt", "-o", "runs/whole", *SMALL)[0] == 0
    whole, shards = (read(Path("runs") / name / "best.safetensors")[1] for name in ("whole", "corpus"))
    assert all(torch.equal(whole[name], shards[name]) for name in whole)
    assert said("train", "corpus", "--resume", "runs/corpus", "--max-iters", "16")[0] == 0
    code, _, err = said("train", "corpus", "-o", "runs/other", "--val-fraction", "0.2")
    assert (code, "a prepared corpus has its splits already" in err) == (2, True)


def test_the_page_names_each_verb_and_exit_code(said: Any) -> None:
    page = (ROOT / "docs/command-line.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)", page, re.MULTILINE) == list(VERBS)
    assert re.findall(r"^\| (\d+) \|", page, re.MULTILINE) == ["0", "1", "2", "130", "141", "143"]
    table = re.search(r"```toml\n(.*?)```", page, re.DOTALL)
    assert table
    Path("page.toml").write_text(table[1], encoding="utf-8")
    assert said("train", "verse.txt", "--config", "page.toml", *SMALL, "--max-iters", "1")[0] == 0


def test_the_commands_of_the_page_run(said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order, in one directory, with few steps."""
    page = (ROOT / "docs/command-line.md").read_text(encoding="utf-8")
    Path("moved").mkdir()
    for name in ("shakespeare.txt", "novel.txt", "moved/novel.txt"):
        Path(name).write_text(f"{TEXT} ROMEO: To be, or not to be. Ot ton\n" * 3, encoding="utf-8")
    Path("plain.toml").write_text("[trainer]\noptimizer = 'adamw'\n", encoding="utf-8")
    lines = re.findall(r"^\$ tinygpt (.*)$", page, re.MULTILINE)
    assert len(lines) > 12
    for line in lines:
        verb, *words = shlex.split(re.sub(r"--(minutes|max-iters) \d+", "--max-iters 5", line))
        few = SMALL if verb == "train" and "--resume" not in words else []
        monkeypatch.setattr(sys, "stdin", io.StringIO(""))
        code, _, err = said(verb, *few, *words)
        assert code == 0, (line, err)


# --- other programs ---------------------------------------------------------------------------------------------------


def test_a_model_goes_out_and_comes_in(said: Any) -> None:
    tokenizer = tinygpt.CharTokenizer.from_text(TEXT)
    tinygpt.save("model.safetensors", make_gpt("gpt2").float(), tokenizer)
    assert said("export", "model.safetensors", "folder", "--to", "huggingface") == (0, "folder\n", "")
    assert said("import", "folder", "-o", "again.safetensors") == (0, "again.safetensors\n", "")
    assert Path("again.safetensors").read_bytes() == Path("model.safetensors").read_bytes()
    assert said("export", "model.safetensors", "model.gguf", "--to", "gguf") == (0, "model.gguf\n", "")
    assert b"eos_token_id" not in Path("model.gguf").read_bytes()
    assert said("export", "model.safetensors", "model.gguf", "--to", "gguf", "--end-id", "3")[0] == 0
    assert b"eos_token_id" in Path("model.gguf").read_bytes()


def test_a_model_without_a_tokenizer_comes_in(said: Any) -> None:
    """Though the command line cannot use it."""
    interop.save_huggingface("folder", make_gpt("gpt2"))
    code, out, err = said("import", "folder", "-o", "m.safetensors")
    assert (code, out) == (0, "m.safetensors\n")
    assert err == "m.safetensors has no tokenizer; use it in Python, with load('m.safetensors', tokenizer=...)\n"


def test_a_model_goes_to_onnx(said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or names the package that it misses."""
    tinygpt.save("model.safetensors", make_gpt("modern"))
    monkeypatch.setitem(sys.modules, "onnx", None)
    found = said("export", "model.safetensors", "model.onnx", "--to", "onnx")
    assert found == (
        1,
        "",
        'tinygpt: error: save_onnx needs the package onnx, which is not installed; run: pip install "tinygpt[onnx]"\n',
    )
    saved = []
    monkeypatch.setattr(interop, "save_onnx", lambda *given: saved.append(given))
    assert said("export", "model.safetensors", "model.onnx", "--to", "onnx") == (0, "model.onnx\n", "")
    assert saved[0][0] == "model.onnx"


def test_a_model_that_cannot_go_out_is_named(run: str, said: Any) -> None:
    tinygpt.save("model.safetensors", make_gpt("gpt2").float())
    for line, code, answer in (
        (["export", run, "folder", "--to", "huggingface"], 2, "got 'modern', .*; train with --layout gpt2"),
        (["export", run, "folder", "--to", "huggingface", "--end-id", "3"], 2, "--end-id is for --to gguf"),
        (["export", "model.safetensors", "m.gguf", "--to", "gguf"], 2, "must have its tokenizer for --to gguf, got"),
        (["export", run, "m.bin", "--to", "bin"], 2, "invalid choice 'bin' for argument '--to'"),
        (["import", "absent", "-o", "m.safetensors"], 1, "there is no file or directory 'absent'"),
        (["import", "verse.txt", "-o", "m.safetensors"], 2, "folder must be a local directory, got 'verse.txt'"),
    ):
        found, out, err = said(*line)
        assert (found, out) == (code, "")
        assert re.fullmatch(f"tinygpt: error: .*{answer}.*\n", err), err
