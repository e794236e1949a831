"""Noise around functions, objects with tools and MCP sessions, synchronous or not."""

import asyncio
import json
import sys
import types

import pytest
from longcat_noise import (
    Book,
    NoiseConfig,
    NoisyEnvironment,
    NoisyFailureError,
    NoisyTools,
    noisy_function,
)  # fmt: skip
from longcat_noise import testing as clinic
from longcat_noise._noise import EpisodeNoise
from longcat_noise.tools import stale

READS = [{"name": "find", "reads": ["x"]}]


def find(key, *, deep=False):
    """Find."""
    return {"key": key, "deep": deep, "rows": [1, 2, 3]}


def only(kind, **more):
    return NoiseConfig(level=1.0, tool_kinds=(kind,), user_kinds=(), **more)


def test_a_failure_is_raised_or_returned_and_then_passes():
    calls = []
    noisy = noisy_function(lambda a: calls.append(a) or "done", only("failure"), episode="e")
    for _ in range(2):
        with pytest.raises(NoisyFailureError, match="try again"):
            noisy(1)
    assert (noisy(1), calls) == ("done", [1])
    told = noisy_function(find, only("failure"), episode="e", on_failure="return")
    assert "try again" in json.loads(told("a"))["error"]
    assert told.__name__ == "find"


def test_results_keep_their_type_where_they_are_json():
    seen = noisy_function(find, only("partial"), episode="e", contracts=READS)("a")
    assert isinstance(seen, dict)
    assert "..." in seen.values()
    same = noisy_function(find, only("latency"), episode="e")("a")
    assert same == find("a")
    padded = noisy_function(find, only("padding"), episode="e")("a")
    assert padded.endswith(json.dumps(find("a"), separators=(",", ":")))
    odd = noisy_function(lambda: {1, 2}, only("padding"), episode="e")()
    assert odd.endswith("{1, 2}")


def test_positional_and_named_arguments_are_one_call():
    noisy = noisy_function(find, only("failure", max_per_tool=1), episode="e")
    with pytest.raises(NoisyFailureError):
        noisy("a", deep=True)
    assert noisy(key="a", deep=True) == find("a", deep=True)
    many = noisy_function(lambda a, *rest: rest, only("failure", max_per_tool=1), episode="e")
    for arguments in ((1, 2), (1, 3), (1, 2, 3)):
        with pytest.raises(NoisyFailureError):
            many(*arguments)
        assert many(*arguments) == arguments[1:]


def test_a_builtin_without_a_signature_is_wrapped():
    noisy = noisy_function(max, only("failure", max_per_tool=1), episode="e")
    with pytest.raises(NoisyFailureError):
        noisy(1, 2)
    assert noisy(1, 2) == 2


async def test_asynchronous_functions_stay_so():
    async def slow(key):
        await asyncio.sleep(0)
        return f"found {key}"

    noisy = noisy_function(slow, only("padding"), episode="e")
    assert (await noisy("a")).endswith(" found a")
    failing = noisy_function(slow, only("failure"), episode="e")
    with pytest.raises(NoisyFailureError):
        await failing("a")


def test_an_object_with_tools_keeps_what_is_no_tool():
    class Desk:
        name = "desk"
        _secret = 1

        def find(self, key):
            return f"found {key}"

    tools = NoisyTools(Desk(), only("padding"), episode="e")
    assert tools.find("a").endswith("found a")
    assert tools["find"] is tools.find
    assert tools.name == "desk"
    assert [row["kind"] for row in tools.log] == ["padding"]
    with pytest.raises(AttributeError):
        tools._secret  # noqa: B018
    with pytest.raises(AttributeError):
        tools.missing  # noqa: B018


def test_a_stale_answer_of_a_function_is_the_earlier_one():
    rows = []
    tools = NoisyTools({"find": lambda: list(rows)},
                       NoiseConfig(level=0.5, tool_kinds=("stale",), seed=3),
                       episode="e", contracts=READS)  # fmt: skip
    seen = []
    for n in range(8):
        seen.append(tools.find())
        rows.append(n)
    old = [(n, s) for n, s in enumerate(seen) if s != list(range(n))]
    assert 1 <= len(old) <= 2
    assert all(s == "[cached, may be out of date] " + json.dumps(list(range(n - 1)),
               separators=(",", ":")) for n, s in old)  # fmt: skip


class Text:
    def __init__(self, text):
        self.text = text


class Reply:
    """What `mcp.types.CallToolResult` is, by shape."""

    def __init__(self, text, is_error=False):
        self.content, self.is_error = [Text(text)], is_error

    @classmethod
    def model_validate(cls, raw):
        return cls(raw["content"][0]["text"], raw["isError"])


class Session:
    def __init__(self):
        self.calls = []

    async def call_tool(self, name, arguments=None, timeout=None):
        self.calls.append((name, arguments, timeout))
        return Reply("no such", True) if name == "missing" else Reply(f"answer {len(self.calls)}")

    def ping(self):
        return "pong"


@pytest.fixture
def noisy_session(monkeypatch):
    from longcat_noise import mcp as module

    fake = types.ModuleType("mcp.types")
    fake.CallToolResult = Reply
    monkeypatch.setitem(sys.modules, "mcp", types.ModuleType("mcp"))
    monkeypatch.setitem(sys.modules, "mcp.types", fake)
    return module.NoisySession


async def test_an_mcp_session_is_wrapped(noisy_session):
    inner = Session()
    session = noisy_session(inner, only("failure"), episode="e")
    assert session.ping() == "pong"
    for _ in range(2):
        failed = await session.call_tool("find", {"a": 1})
        assert failed.is_error
        assert "try again" in failed.content[0].text
    assert inner.calls == []
    assert (await session.call_tool("find", {"a": 1}, timeout=3)).content[0].text == "answer 1"
    assert inner.calls == [("find", {"a": 1}, 3)]
    assert len(session.log) == 2
    padded = noisy_session(Session(), only("padding"), episode="e")
    assert (await padded.call_tool("find")).content[0].text.endswith(" answer 1")
    assert (await padded.call_tool("missing")).content[0].text == "no such"


async def test_a_stale_answer_of_a_session(noisy_session):
    config = NoiseConfig(level=0.5, tool_kinds=("stale",), seed=3)
    session = noisy_session(Session(), config, episode="e", contracts=READS)
    texts = [(await session.call_tool("find")).content[0].text for _ in range(8)]
    old = [text for text in texts if text.startswith("[cached")]
    assert 1 <= len(old) <= 2
    assert (await session.call_tool("missing")).content[0].text == "no such"


def test_hints_of_listed_tools_are_contracts(noisy_session):
    from longcat_noise.mcp import contracts_of

    def tool(name, **hints):
        return types.SimpleNamespace(name=name, annotations=types.SimpleNamespace(**hints))

    book = Book.of(contracts_of([
        tool("read", readOnlyHint=True), tool("write", read_only_hint=False),
        tool("put", readOnlyHint=False, idempotentHint=True), tool("odd"),
        types.SimpleNamespace(name="bare", annotations=None),
    ]))  # fmt: skip
    roles = {name: book[name].role for name in ("read", "write", "put", "odd", "bare")}
    assert roles == {"read": "reader", "write": "writer", "put": "writer", "odd": "undeclared",
                     "bare": "undeclared"}  # fmt: skip
    assert [book[name].is_idempotent for name in ("write", "put")] == [False, True]


def test_the_error_names_the_extra(monkeypatch):
    from longcat_noise.mcp import NoisySession

    monkeypatch.setitem(sys.modules, "mcp", None)
    monkeypatch.delitem(sys.modules, "mcp.types", raising=False)
    with pytest.raises(ImportError, match=r"pip install longcat-noise\[mcp\]"):
        NoisySession(Session(), only("failure"), episode="e")


async def test_a_stale_answer_of_an_environment_is_an_earlier_one_that_was_shown_whole():
    class Clock(clinic.Clinic):
        """Tells another time whenever it is asked."""

        def reset(self):
            schema = {"type": "function", "function": {"name": "now", "parameters": {}}}
            return clinic.Opening([{"role": "user", "content": "Hi"}], [schema])

        def call(self, tool_call):
            self.time = getattr(self, "time", 0) + 1
            return clinic.Result(f"it is {self.time}")

    book = Book.of([{"name": "now", "reads": ["clock.time"]}])
    config = NoiseConfig(level=0.5, tool_kinds=("stale",), user_kinds=())
    call = {"function": {"name": "now", "arguments": {}}}
    seen = []
    for n in range(20):
        noise = EpisodeNoise(config, f"{n}", book=book)
        if [noise.meet("now", {}) is None for _ in range(2)] == [True, False]:
            noisy = NoisyEnvironment(Clock("Hi"), config, episode=f"{n}", contracts=book)
            await noisy.reset()
            seen.append([(await noisy.call(call)).content for _ in range(2)])
    assert seen
    assert all(pair == ["it is 1", f"{stale.MARK}it is 1"] for pair in seen)


async def test_an_environment_may_be_asynchronous_and_its_score_passes_untouched():
    marker = object()

    class World(clinic.Clinic):
        async def reset(self):
            return clinic.Clinic.reset(self)

        async def call(self, tool_call):
            return clinic.Clinic.call(self, tool_call)

        async def reply(self, message):
            return None

        async def score(self):
            return marker

        async def close(self):
            self.visits.append("closed")

    world = World("Hello ADA")
    noisy = NoisyEnvironment(world, NoiseConfig(level=1.0), episode="e")
    await noisy.reset()
    call = {"function": {"name": "find_patient", "arguments": {"name": "Ada Berg"}}}
    seen = [(await noisy.call(call)).content for _ in range(3)]
    assert json.loads(seen[2])["patient_id"] == "P17"
    assert seen[0] != seen[2]
    assert await noisy.reply({"role": "assistant", "content": "bye"}) is None
    assert await noisy.score() is marker
    await noisy.close()
    assert world.visits == ["closed"]


async def test_an_observation_that_is_no_dataclass_is_copied():
    class Plain:
        def __init__(self, messages):
            self.messages, self.tools = messages, []

    class World(clinic.Clinic):
        def reset(self):
            self.own = Plain(
                [{"role": "system", "content": "S"}, {"role": "user", "content": "U V"}]
            )
            return self.own

    world = World()
    noisy = NoisyEnvironment(world, NoiseConfig(level=1.0, user_kinds=("casing",)), episode="e")
    assert [m["content"] for m in (await noisy.reset()).messages] == ["S", "u v"]
    assert [m["content"] for m in world.own.messages] == ["S", "U V"]


async def test_a_result_that_is_no_text_passes():
    class World(clinic.Clinic):
        def call(self, tool_call):
            return clinic.Result(["image"])

    noisy = NoisyEnvironment(World(), only("padding"), episode="e")
    await noisy.reset()
    assert (await noisy.call({"function": {"name": "x", "arguments": ""}})).content == ["image"]
