"""Heavy thinking for any OpenAI client: a server between it and a model."""

from ._app import ProxyConfig, make_app, serve

__all__ = ["ProxyConfig", "make_app", "serve"]
