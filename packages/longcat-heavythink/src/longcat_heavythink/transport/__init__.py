"""One client for all calls: bounded connections, retries, hedging, deadlines, cancellation."""

from ._config import EndpointConfig
from ._endpoint import Endpoint, openai_complete
from ._gate import Gate
from ._retry import Retry

__all__ = ["Endpoint", "EndpointConfig", "Gate", "Retry", "openai_complete"]
