"""Files, functions and lines are as small as the house wants them; exceptions only shrink."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def sizes():
    spec = importlib.util.spec_from_file_location("sizes", ROOT / ".ci" / "sizes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_nothing_is_larger_than_allowed(sizes):
    known = sizes.allowed(sizes.LIST.read_text("utf-8"))
    larger = {name: size for name, size in sizes.oversized().items() if size > known.get(name, 0)}
    assert larger == {}, "split it, or wrap it"


def test_the_list_of_exceptions_holds_nothing_that_is_no_longer_needed(sizes):
    known, found = sizes.allowed(sizes.LIST.read_text("utf-8")), sizes.oversized()
    shrunk = {name: size for name, size in known.items() if found.get(name, 0) < size}
    assert shrunk == {}, "python .ci/sizes.py --write"


def test_what_is_counted(sizes, tmp_path):
    folder = tmp_path / "examples"
    folder.mkdir()
    body = "\n".join("    x = 1" for _ in range(46))
    (folder / "a.py").write_text(
        f'def f(\n    y,\n):\n    """Long.\n\n    Words.\n    """\n{body}\n'
    )
    (folder / "b.py").write_text("x = 1\n" * 401 + "#" * 101 + "\n" + "#" * 100 + "\n")
    assert sizes.oversized(tmp_path) == {
        "examples/a.py f()": 46, "examples/b.py file": 403, "examples/b.py lines": 1,
    }  # fmt: skip
