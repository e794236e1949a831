"""The command, and one smoke run shared by everything that looks at a trained folder."""

import contextlib
import io
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from longcat_cli.main import run as run_command

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for `sabotage` and others, also in processes that are spawned

# Ray would start every worker by `uv run` where the tests were: seconds each, for the same environment.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # else they give way until a test times out
# Matrices of tests are small: threads would wait for each other more than they compute, above all on
# a busy machine. Set before torch is loaded, and inherited by every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from again import Beside, Case  # noqa: E402
from smoke_run import LONGCAT, SmokeRun  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("markers", "long: a sweep; LONGCAT_LONG=1 switches it on")
    _keep_bytecode(config)


def _keep_bytecode(config):
    """Where Python is told to keep none, every process of a test would compile all it imports."""
    if sys.dont_write_bytecode and hasattr(config, "cache"):
        folder = str(config.cache.mkdir("bytecode"))
        sys.dont_write_bytecode, sys.pycache_prefix = False, folder
        os.environ.update(PYTHONDONTWRITEBYTECODE="", PYTHONPYCACHEPREFIX=folder)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """What needs the smoke run comes last among the tests of this folder: it goes on meanwhile."""
    places = [place for place, item in enumerate(items) if HERE in item.path.parents]
    mine = [items[place] for place in places]
    mine.sort(key=_needs_the_run)
    for place, item in zip(places, mine, strict=True):
        items[place] = item
        if "long" in item.keywords and os.environ.get("LONGCAT_LONG") != "1":
            item.add_marker(pytest.mark.skip(reason="a sweep: set LONGCAT_LONG=1"))


def _needs_the_run(item):
    return "trained" in getattr(item, "fixturenames", ())


@dataclass(frozen=True)
class Ended:
    """What a command left when it ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def longcat(monkeypatch, capsys):
    """The command as typed, in this process: seconds less each time than in one of its own."""

    def run(*arguments, text=""):
        monkeypatch.setattr(sys, "argv", ["longcat", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_command()
        told = capsys.readouterr()
        return Ended(ended.value.code or 0, told.out, told.err)

    return run


@pytest.fixture(scope="session", autouse=True)
def smoke_run(request, tmp_path_factory):
    """Begun with the first test of this folder, if any of the session needs it."""
    run = SmokeRun(tmp_path_factory.mktemp("runs") / "smoke")
    mine = [item for item in request.session.items if HERE in item.path.parents]
    if any(map(_needs_the_run, mine)):
        run.start()
    yield run
    run.stop()


@pytest.fixture(scope="session")
def beside(request, tmp_path_factory):
    """The cases of `again` that the session's tests ask for, run as soon as there is a run."""
    asked = [item.callspec.params.get("case") for item in request.session.items
             if hasattr(item, "callspec") and not item.get_closest_marker("skip")]  # fmt: skip
    cases = [case for case in asked if isinstance(case, Case)]
    runs = Beside(cases, tmp_path_factory.mktemp("again"))
    yield runs
    runs.stop()


@pytest.fixture(scope="session")
def trained(smoke_run, beside):
    """The folder of a smoke run that was killed in each of its stages, and continued."""
    smoke_run.start()
    folder = smoke_run.folder_when_done()
    beside.begin(folder)
    return folder


@pytest.fixture
def told_of(trained, beside):
    """What was told of one of the cases."""
    return beside.told_of


@pytest.fixture
def printed(smoke_run, trained):
    """Process, time and text of each line that the runs printed."""
    return smoke_run.lines


@pytest.fixture
def serving():
    """`longcat serve` in a process: a context that gives the process and its URL."""

    @contextlib.contextmanager
    def serve(model, *options):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [*LONGCAT, "serve", str(model), "--port", str(port), *options]
        url = f"http://127.0.0.1:{port}"
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True) as server:  # fmt: skip
            try:
                said = server.stdout.readline()
                assert f"{Path(model).name} at {url}/v1" in said, said + server.stdout.read()
                _until_it_answers(server, url)  # it says so before it listens
                yield server, url
            finally:
                server.kill()

    return serve


def _until_it_answers(server, url):
    with httpx.Client(trust_env=False, base_url=url) as web:
        while True:
            try:
                web.get("/health", timeout=60)
            except httpx.ConnectError:
                assert server.poll() is None, server.stdout.read()
                time.sleep(0.02)
            else:
                return


@pytest.fixture
def tokenizer():
    """A character is a token; its template knows no tools."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    words = ["<unk>", "<s>", "</s>", *[chr(n) for n in range(32, 127)], "\n"]
    plain = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    plain.decoder = decoders.Fuse()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, eos_token="</s>", pad_token="<unk>"
    )
    made.chat_template = (
        "{% for m in messages %}{{ '<s>' + m['role'] + '\n' + m['content'] + '</s>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
    )
    return made


@pytest.fixture
def tiny_model(tmp_path, tokenizer, monkeypatch):
    """The working folder, with a model of Hugging Face's kind in `model`."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    tokenizer.save_pretrained(tmp_path / "model")
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=2, eos_token_id=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, pad_token_id=0,
        bos_token_id=1, max_position_embeddings=128,
    )).save_pretrained(tmp_path / "model")  # fmt: skip
    monkeypatch.chdir(tmp_path)
    return tmp_path
