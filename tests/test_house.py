"""Rules of the house: who imports whom, light imports, exports, a lock without hosts."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path.name for path in (ROOT / "packages").iterdir() if path.is_dir())
MODULES = [name.replace("-", "_") for name in PACKAGES]
HEAVY = ("torch", "ray", "vllm", "transformers", "numpy")
LIGHT = ("longcat_dora", "longcat_envs", "longcat_noise", "longcat_heavythink")


def _imports(path: Path) -> set[str]:
    tops = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            tops.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            tops.add(node.module.split(".")[0])
    return tops


def test_there_are_seven_packages_and_each_has_its_files():
    assert len(PACKAGES) == 7
    for name in PACKAGES:
        folder = ROOT / "packages" / name
        for file in ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "tests",
                     f"src/{name.replace('-', '_')}/py.typed"):  # fmt: skip
            assert (folder / file).exists(), f"{name} must have {file}"


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_imports_no_sibling_and_no_app(name):
    own = name.replace("-", "_")
    for part in ("src", "tests", "benchmarks"):
        for path in (ROOT / "packages" / name / part).rglob("*.py"):
            strangers = _imports(path) & ({*MODULES, "longcat_cli"} - {own})
            assert not strangers, f"{path} imports {strangers}"


@pytest.mark.parametrize("module", MODULES)
def test_all_is_what_is_public(module):
    code = (
        f"import {module} as m, types; print(sorted(set(n for n in vars(m) if not n.startswith('_')"
        f" and not isinstance(getattr(m, n), types.ModuleType)) ^ set(m.__all__)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", LIGHT)
def test_a_light_package_loads_nothing_heavy(module):
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _committed() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name]


def test_the_committed_lock_names_no_host():
    done = subprocess.run(["git", "show", "HEAD:uv.lock"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    hosts = set(re.findall(r'"https?://([^/"]+)', done.stdout))
    assert hosts == {"index.invalid"}
    assert 'name = "torch"\nversion = "2.13.0"' in done.stdout
    assert not re.search(r'registry = "(?!https://index\.invalid|packages")', done.stdout)


def test_nothing_committed_names_a_registry_or_is_big():
    hosts = re.compile("|".join(("pypi" + r"\.org", "python" + r"hosted\.org", "npm" + r"js\.org")))
    for path in _committed():
        if path.name == "uv.lock" or not path.is_file():
            continue
        assert path.stat().st_size < 1_000_000, f"{path} is too big"
        assert not hosts.search(path.read_text("utf-8", errors="ignore")), f"{path} names a host"


def test_top_level_holds_what_it_should():
    tops = {
        path.relative_to(ROOT).parts[0] for path in _committed() if path.relative_to(ROOT).parts[1:]
    }
    assert {top for top in tops if not top.startswith(".")} == {
        "packages",
        "apps",
        "examples",
        "tests",
    }


def test_the_lock_script_replaces_hosts_drops_sizes_and_nothing_else():
    text = (
        'source = { registry = "https://a.example/simple" }\n'
        '{ url = "https://b.example/x.whl", hash = "sha256:0", size = 123, upload-time = "2026" }\n'
    )
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "lock.py")],
        input=text, capture_output=True, text=True, check=True,
    )  # fmt: skip
    expected = text.replace("a.example", "index.invalid").replace("b.example", "index.invalid")
    assert done.stdout == expected.replace(", size = 123", "")
