"""Build one package's wheel, install it in an environment of its own, and run its tests there.

Nothing of the workspace is visible: what the package does not declare, it does not have.
"""

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main(name: str) -> int:
    """Return the exit code of the package's tests."""
    folder = ROOT / "packages" / name
    if not folder.is_dir():
        known = ", ".join(sorted(path.name for path in (ROOT / "packages").iterdir()))
        print(f"PKG must be one of {known}, got {name!r}")
        return 2
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        _run("uv", "build", "--wheel", "--out-dir", place / "dist", folder, cwd=place)
        _run("uv", "venv", "--python", sys.executable, place / "venv", cwd=place)
        (wheel,) = (place / "dist").glob("*.whl")
        python = place / "venv" / "bin" / "python"
        (place / "pins.txt").write_text("torch==2.13.0\n")
        needs = project["dependency-groups"]["test"]
        _run("uv", "pip", "install", "--quiet", "--python", python, "--constraint",
             place / "pins.txt", wheel, *needs, cwd=place)  # fmt: skip
        options = [
            "-q",
            "--import-mode=importlib",
            "-o",
            "asyncio_mode=auto",
            "-p",
            "no:cacheprovider",
        ]
        tests = place / "tests"
        tests.symlink_to(folder / "tests")
        return subprocess.run([python, "-m", "pytest", *options, tests], cwd=place).returncode


def _run(*command: object, cwd: Path) -> None:
    subprocess.run([str(part) for part in command], cwd=cwd, check=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: alone.py PKG")
    raise SystemExit(main(sys.argv[1]))
