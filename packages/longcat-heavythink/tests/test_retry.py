"""What an endpoint is set to, when it tries again, and how long it waits before."""

import pytest
from longcat_heavythink import Endpoint, EndpointConfig, Failure, FailureKind, Retry
from longcat_heavythink.transport._retry import read_retry_after


@pytest.mark.parametrize(
    ("field", "value"),
    [("url", "localhost:8000"), ("url", "ftp://x"), ("timeout_s", 0), ("deadline_s", float("nan")),
     ("max_connections", 0), ("max_tokens", 0), ("api_key", "a\nb"), ("hedge_after_s", -1),
     ("url", None), ("api_key", None), ("model", None), ("retry", None), ("headers", None),
     ("headers", {"x-a": 3}), ("extra", []), ("seed", None), ("timeout_s", None),
     ("deadline_s", "9"), ("max_connections", None), ("max_connections", True)],
)  # fmt: skip
def test_an_endpoint_is_checked_before_it_is_used(field, value):
    with pytest.raises(ValueError, match="x-a" if value == {"x-a": 3} else field):
        EndpointConfig(**{"url": "http://x/v1", field: value})


def test_a_time_that_may_not_be_zero_is_told_so():
    with pytest.raises(ValueError, match="timeout_s must be positive and finite, got 0"):
        EndpointConfig(url="http://x", timeout_s=0)
    with pytest.raises(ValueError, match="base_s must be finite and not negative, got -1"):
        Retry(base_s=-1)


def test_a_key_is_never_shown():
    assert "secret" not in repr(EndpointConfig(url="http://x", api_key="secret"))


def test_an_address_may_be_given_in_three_ways():
    for url in ("http://x/v1", "http://x/v1/", "http://x/v1/chat/completions"):
        assert EndpointConfig(url=url).base == "http://x/v1"


class _Highest:
    """A random source that always draws the upper end."""

    def uniform(self, low, high):
        return high


def test_pauses_double_up_to_a_cap_and_tries_end():
    retry = Retry(max_tries=4, base_s=1, cap_s=3)
    failure = Failure(FailureKind.SERVER, "")
    pauses = [retry.pause(failure, tries, 0, _Highest()) for tries in (1, 2, 3, 4)]
    assert pauses == [1, 2, 3, None]
    assert retry.pause(Failure(FailureKind.REFUSED, ""), 1, 0, _Highest()) is None
    assert retry.pause(Failure(FailureKind.SERVER, "", permanent=True), 1, 0, _Highest()) is None


def test_refusals_for_load_use_up_no_try():
    retry = Retry(max_tries=1, base_s=1, cap_s=3, max_retry_after_s=10)
    assert retry.pause(Failure(FailureKind.RATE_LIMITED, ""), 0, 50, _Highest()) == 3
    asked = Failure(FailureKind.RATE_LIMITED, "", retry_after_s=5.0)
    assert retry.pause(asked, 0, 1, _Highest()) == 6.0
    asked = Failure(FailureKind.RATE_LIMITED, "", retry_after_s=11.0)
    assert retry.pause(asked, 0, 1, _Highest()) is None


def test_retry_after_in_seconds_dates_and_nonsense():
    from datetime import UTC, datetime

    now = datetime(2026, 1, 1, tzinfo=UTC)
    for value, seconds in [
        ("3", 3.0), ("0.5", 0.5), ("-4", 0.0), ("nan", None), ("inf", None), ("", None),
        (None, None),
        ("Thu, 01 Jan 2026 00:01:00 GMT", 60.0), ("Wed, 31 Dec 2025 00:00:00 GMT", 0.0),
        ("soon", None), ("Thu, 99 Jan 2026 00:01:00 GMT", None),
    ]:  # fmt: skip
        assert read_retry_after(value, now) == seconds


@pytest.mark.parametrize("value", [-1, None, "1", float("inf")])
@pytest.mark.parametrize("field", ["base_s", "cap_s", "max_retry_after_s", "max_tries"])
def test_a_retry_policy_is_checked(field, value):
    with pytest.raises(ValueError, match=f"{field} must be .*, got "):
        Retry(**{field: value})


@pytest.mark.parametrize("value", [0, 1.5, True])
def test_tries_are_whole(value):
    with pytest.raises(ValueError, match="max_tries must be a whole number from 1"):
        Retry(max_tries=value)


def test_the_endpoint_is_a_model():
    from longcat_heavythink import Model

    assert isinstance(Endpoint(EndpointConfig(url="http://x")), Model)
