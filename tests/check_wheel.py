"""Install the wheel into an empty environment and use it there, as someone who never saw this repository."""

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

USE = """
import tinygpt
assert tinygpt.__version__ == {version!r}, tinygpt.__version__
assert "site-packages" in tinygpt.__file__, tinygpt.__file__
model = tinygpt.GPTConfig(vocab_size=137).build()
assert model.num_parameters() == 10_844_297
"""


def main(directory: Path) -> None:
    """Check the one wheel in the directory."""
    (wheel,) = directory.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    version = wheel.name.split("-")[1]
    outside = [name for name in names if not name.startswith(("tinygpt/", f"tinygpt-{version}.dist-info/"))]
    if outside or "tinygpt/py.typed" not in names or not any(name.endswith("/LICENSE") for name in names):
        sys.exit(f"the wheel must hold tinygpt, py.typed and the license alone, got {names}")
    constraints = Path(__file__).parent.parent / "constraints.txt"
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / ("Scripts" if sys.platform == "win32" else "bin") / "python")
        install = [
            python,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "install",
            "-q",
            "-c",
            str(constraints),
            str(wheel),
        ]
        subprocess.run(install, check=True)
        use = [python, "-W", "error", "-c", USE.format(version=version)]
        done = subprocess.run(use, check=True, cwd=folder, capture_output=True, text=True)
        if done.stdout or done.stderr:
            sys.exit(f"importing must print nothing, got {done.stdout + done.stderr!r}")
    print(f"{wheel.name}: {len(names)} files, installs into an empty environment and imports without a word")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
