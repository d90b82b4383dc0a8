"""Build both distributions into dist/, compare the sdist with the repository, and use the wheel alone.

Run:   python tests/check_wheel.py
"""

import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"
USE = """
import tinygpt
assert tinygpt.__version__ == {version!r}, tinygpt.__version__
assert "site-packages" in tinygpt.__file__, tinygpt.__file__
model = tinygpt.GPTConfig(vocab_size=137).build()
assert model.num_parameters() == 10_844_297
tokenizer = tinygpt.CharTokenizer("ab")
assert "<canvas" in tinygpt.views.read(tinygpt.BigramLanguageModel(2), tokenizer, "abba").page()
"""


def build() -> tuple[Path, Path]:
    """Build the sdist, and the wheel from it again, without those of older versions."""
    for old in DIST.glob("tinygpt-*"):
        old.unlink()
    done = subprocess.run([sys.executable, "-m", "build", "--outdir", DIST, ROOT], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return distributions()


def distributions() -> tuple[Path, Path]:
    """Return the sdist and the wheel that were built last."""
    (sdist,), (wheel,) = DIST.glob("tinygpt-*.tar.gz"), DIST.glob("tinygpt-*.whl")
    return sdist, wheel


def check_sdist(sdist: Path) -> None:
    """Compare the files of the source distribution with those that git does not ignore, in a git checkout."""
    if not (ROOT / ".git").exists():
        return
    list_files = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(list_files, check=True, cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    expected = {name for name in listed if (ROOT / name).is_file()}
    with tarfile.open(sdist) as archive:
        found = {member.name.partition("/")[2] for member in archive if not member.isdir()} - {"PKG-INFO"}
    if found != expected:
        missing, unexpected = sorted(expected - found), sorted(found - expected)
        sys.exit(f"the sdist must hold the files of the repository, got {missing=} and {unexpected=}")
    print(f"{sdist.name}: the {len(found)} files of the repository")


def install(folder: str, *requirements: str) -> str:
    """Install into a new environment what constraints.txt pins, and return the path of its Python."""
    venv.create(folder, with_pip=True)
    python = str(Path(folder) / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "-q", "-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, *requirements], check=True)
    return python


def check_wheel(wheel: Path) -> None:
    """Check what is in the wheel, install it and import it."""
    names = zipfile.ZipFile(wheel).namelist()
    version = wheel.name.split("-")[1]
    outside = [name for name in names if not name.startswith(("tinygpt/", f"tinygpt-{version}.dist-info/"))]
    if outside or "tinygpt/py.typed" not in names or not any(name.endswith("/LICENSE") for name in names):
        sys.exit(f"the wheel must hold tinygpt, py.typed and the license alone, got {names}")
    with tempfile.TemporaryDirectory() as folder:
        python = install(folder, str(wheel))
        use = [python, "-W", "error", "-c", USE.format(version=version)]
        done = subprocess.run(use, check=True, cwd=folder, capture_output=True, text=True)
        if done.stdout or done.stderr:
            sys.exit(f"importing must print nothing, got {done.stdout + done.stderr!r}")
        line = [str(Path(python).with_name("tinygpt")), "--version"]
        shown = subprocess.run(line, check=True, cwd=folder, capture_output=True, text=True)
        if (shown.stdout, shown.stderr) != (f"{version}\n", ""):
            sys.exit(f"tinygpt --version must print {version}, got {shown.stdout + shown.stderr!r}")
    print(f"{wheel.name}: {len(names)} files, installs into an empty environment, imports without a word and runs")


if __name__ == "__main__":
    sdist, wheel = build()
    check_sdist(sdist)
    check_wheel(wheel)
