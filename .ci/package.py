"""Build one package as an index shows it: links and pictures of its README lead to the repository.

    python .ci/package.py longcat-noise dist

READMEs have relative links, so that they lead somewhere in a clone; a page on an index has no
folder to look in. Everything else of the package is built as it is.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?\[[^\]]*\])\((?!\w+:|#)([^)\s]+)\)")
"""A relative link or picture of Markdown: what is shown, and where it leads."""


def absolute(text: str, source: str) -> str:
    """Lead relative links to a package's folder in the repository; pictures to the file itself."""

    def lead(found: re.Match[str]) -> str:
        kind = "raw" if found[1].startswith("!") else "blob"
        return f"{found[1]}({source.replace('/tree/', f'/{kind}/', 1)}/{found[2]})"

    return LINK.sub(lead, text)


def main(name: str, out: str) -> int:
    """Build a wheel and a source archive; return the exit code of the build."""
    places = [ROOT / wing / name for wing in ("packages", "apps")]
    folder = next((place for place in places if (place / "pyproject.toml").is_file()), None)
    if folder is None:
        print(f"PKG must be a package of this repository, got {name!r}")
        return 2
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / name
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("__pycache__", "dist"))
        readme = copy / project["readme"]
        readme.write_text(absolute(readme.read_text("utf-8"), project["urls"]["Source"]), "utf-8")
        command = ["uv", "build", "--no-sources", "--out-dir", str(Path(out).resolve()), str(copy)]
        return subprocess.run(command).returncode


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: package.py PKG FOLDER")
    raise SystemExit(main(sys.argv[1], sys.argv[2]))
