"""Date the Unreleased heading of a package's changelog, commit, and tag PKG@VERSION."""

import datetime
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main(name: str) -> None:
    """Write the heading for the version in `pyproject.toml`."""
    (folder,) = [path for path in ROOT.glob("*/" + name) if (path / "pyproject.toml").is_file()]
    version = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    changelog = folder / "CHANGELOG.md"
    text = changelog.read_text("utf-8")
    if "## Unreleased" not in text:
        raise SystemExit(f"{changelog} must have a heading '## Unreleased'")
    today = datetime.datetime.now(datetime.UTC).date()
    dated = f"## Unreleased\n\n## {version} ({today})"
    changelog.write_text(text.replace("## Unreleased", dated, 1), encoding="utf-8")
    subprocess.run(["git", "add", str(folder)], check=True)
    subprocess.run(["git", "commit", "-m", f"Release {name} {version}"], check=True)
    subprocess.run(["git", "tag", f"{name}@{version}"], check=True)


if __name__ == "__main__":
    main(sys.argv[1])
