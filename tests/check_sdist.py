"""Run the unit tests of the sdist in dist/, unpacked into an empty folder, against the wheel beside it.

Run:   python tests/check_sdist.py [ARGUMENTS OF PYTEST]
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from check_wheel import distributions, install


def main() -> None:
    """Install the wheel, not the sources beside the tests, as a packager of another distribution does."""
    sdist, wheel = distributions()
    with tempfile.TemporaryDirectory() as folder:
        python = install(f"{folder}/venv", f"{wheel}[test]")
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        sources = Path(folder) / sdist.name.removesuffix(".tar.gz")
        tests = [python, "-m", "pytest", "-q", "-m", "not slow", *sys.argv[1:]]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        sys.exit(subprocess.run(tests, cwd=sources, env={**environment, "OMP_NUM_THREADS": "1"}).returncode)


if __name__ == "__main__":
    main()
