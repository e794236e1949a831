import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

# Matrices of tests are small: threads would wait for each other more than they compute, above all on
# a busy machine. Set before torch is loaded, and inherited by every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings
from longcat_moe import ChatFormat, Engine, LongcatConfig, LongcatForCausalLM, train_tokenizer

torch.set_num_threads(1)  # where another test has loaded torch already
settings.register_profile("patient", deadline=None)  # on a busy machine any example may be slow
settings.load_profile("patient")


def pytest_configure(config: pytest.Config) -> None:
    """Where Python is told to keep no bytecode, every process would compile all it imports."""
    if sys.dont_write_bytecode and hasattr(config, "cache"):
        folder = str(config.cache.mkdir("bytecode"))
        sys.dont_write_bytecode, sys.pycache_prefix = False, folder
        os.environ.update(PYTHONDONTWRITEBYTECODE="", PYTHONPYCACHEPREFIX=folder)


@pytest.fixture
def config() -> LongcatConfig:
    return LongcatConfig(
        vocab_size=96, hidden_size=48, num_layers=2, num_attention_heads=3, q_lora_rank=24,
        kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=12,
        ffn_hidden_size=64, expert_ffn_hidden_size=16, n_routed_experts=8, zero_expert_num=4,
        moe_topk=4, rope_theta=10_000.0, max_position_embeddings=256, initializer_range=0.2,
    )  # fmt: skip


@pytest.fixture
def model(config: LongcatConfig) -> LongcatForCausalLM:
    torch.manual_seed(0)
    model = LongcatForCausalLM(config).eval()
    for module in model.modules():
        if hasattr(module, "e_score_correction_bias"):
            module.e_score_correction_bias.normal_(std=0.05)
    return model


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer(["find the book of Ada Berg, quickly. I look"] * 10, vocab_size=400)


@pytest.fixture(scope="session")
def engine(tokenizer):
    config = LongcatConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=48, num_layers=1, num_attention_heads=2,
        q_lora_rank=24, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=12,
        ffn_hidden_size=64, expert_ffn_hidden_size=16, n_routed_experts=4, zero_expert_num=2,
        moe_topk=2, rope_theta=10_000.0, initializer_range=0.1,
    )  # fmt: skip
    torch.manual_seed(0)
    engine = Engine(
        config, num_slots=2, max_length=600, max_waiting=2, threaded=True,
        decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=False),
    )  # fmt: skip
    engine.add_model(0, LongcatForCausalLM(config))
    return engine


@pytest.fixture(scope="session")
def url(engine, tokenizer):
    from longcat_moe.server import create_app

    with serving(create_app(engine, ChatFormat(tokenizer), model="tiny")) as url:
        yield url


@contextmanager
def serving(app) -> Iterator[str]:
    """Serve an application on a port of its own."""
    uvicorn = pytest.importorskip("uvicorn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    for _ in range(2000):
        if server.started:
            break
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(5)


@pytest.fixture(scope="session")
def serve():
    """Serve any application."""
    return serving


@pytest.fixture(scope="session")
def client(url):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave sweeps out, unless LONGCAT_LONG=1 asks for them."""
    if os.environ.get("LONGCAT_LONG") == "1":
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="a long run: LONGCAT_LONG=1"))
