"""Packages as one finds them on an index: what they say of themselves, and what is in them."""

import importlib.util
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = [path for wing in ("packages", "apps") for path in sorted((ROOT / wing).iterdir())
           if (path / "pyproject.toml").is_file()]  # fmt: skip
URLS = {"Homepage", "Documentation", "Changelog", "Source", "Issues"}


def _script():
    spec = importlib.util.spec_from_file_location("package", ROOT / ".ci" / "package.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_a_package_says_what_an_index_shows(folder):
    text = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
    project = text["project"]
    assert project["authors"]
    assert 4 <= len(project["keywords"]) <= 8
    assert project["classifiers"] == sorted(project["classifiers"])
    assert "Typing :: Typed" in project["classifiers"]
    assert not any(line.startswith("License ::") for line in project["classifiers"])  # PEP 639
    urls = project["urls"]
    assert set(urls) == URLS
    assert all(url.startswith(urls["Homepage"]) for url in urls.values())
    where = folder.relative_to(ROOT).as_posix()
    assert urls["Source"].endswith(f"/tree/main/{where}")
    assert urls["Changelog"].endswith(f"/{where}/CHANGELOG.md")
    assert "tests/**" in text["tool"]["uv"]["build-backend"]["source-include"]
    assert len(project["description"]) < 100


def test_every_package_leads_to_the_same_home():
    texts = [(folder / "pyproject.toml").read_text("utf-8") for folder in FOLDERS]
    homes = {tomllib.loads(text)["project"]["urls"]["Homepage"] for text in texts}
    assert len(homes) == 1


@pytest.mark.parametrize("folder", [ROOT, *FOLDERS], ids=lambda path: path.name)
def test_every_link_of_a_readme_leads_to_a_file(folder):
    text = (folder / "README.md").read_text("utf-8")
    for _, where in _script().LINK.findall(text):
        assert (folder / where.partition("#")[0]).exists(), where


def test_links_and_pictures_lead_to_the_repository():
    text = "[a](b/c.md) ![p](d.svg) [web](https://x.example/y) [up](#top)"
    found = _script().absolute(text, "https://h.example/tree/main/packages/p")
    assert found == (
        "[a](https://h.example/blob/main/packages/p/b/c.md) "
        "![p](https://h.example/raw/main/packages/p/d.svg) "
        "[web](https://x.example/y) [up](#top)"
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """One package, built as for an index: its wheel and its source archive."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, str(ROOT / ".ci" / "package.py"), "longcat-noise", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (wheel,), (source,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, source


def test_a_wheel_shows_absolute_links_and_ordinary_files(built):
    with zipfile.ZipFile(built[0]) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith("/METADATA")]
        said = wheel.read(name).decode()
        modes = {info.external_attr >> 16 & 0o777 for info in wheel.infolist() if not info.is_dir()}
        names = wheel.namelist()
    assert modes == {0o644}
    for words in ("Author: The LongCat maintainers", "Project-URL: Changelog, http", "Keywords: ",
                  "Classifier: Typing :: Typed", "License-Expression: Apache-2.0"):  # fmt: skip
        assert words in said
    links = re.findall(r"\]\(([^)]*)\)", said)
    assert links
    assert all(link.startswith("https://") for link in links)
    assert any(name.endswith("py.typed") for name in names)
    assert not any("tests" in Path(name).parts for name in names)


def test_a_source_archive_holds_its_tests_and_changelog(built):
    with tarfile.open(built[1]) as source:
        files = {member.name.partition("/")[2]: member for member in source if member.isfile()}
    assert {"CHANGELOG.md", "DESIGN.md", "LICENSE", "README.md", "pyproject.toml"} <= set(files)
    tests = {path.name for path in (ROOT / "packages/longcat-noise/tests").glob("test_*.py")}
    assert tests <= {Path(name).name for name in files if name.startswith("tests/")}
    assert not any("__pycache__" in name for name in files)
    assert {member.mode for member in files.values()} == {0o644}
