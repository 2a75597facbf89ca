"""What requests to an upstream cost."""

from typing import Any

import pytest

from drr.engine.upstream.cost import Cost, Prices, Usage
from drr.errors import InputError


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 7}, Usage(5, 7)),
        (
            {
                "prompt_tokens": 5,
                "completion_tokens": 7,
                "prompt_tokens_details": {"cached_tokens": 4},
                "completion_tokens_details": {"reasoning_tokens": 6},
            },
            Usage(5, 7, 4, 6),
        ),
        ({"prompt_tokens": 5, "completion_tokens": 7, "prompt_cache_hit_tokens": 0}, Usage(5, 7, 0)),
        ({"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": None}, Usage(5, 7)),
        ({"prompt_tokens": 5}, None),
        ({"prompt_tokens": -1, "completion_tokens": 2}, None),
        (None, None),
    ],
)
def test_a_usage_is_read_in_openais_and_in_deepseeks_shape(usage: Any, read: Usage | None) -> None:
    assert Usage.read(usage) == read


def test_more_cannot_be_cached_than_was_sent() -> None:
    read = Usage.read({"prompt_tokens": 5, "completion_tokens": 7, "prompt_cache_hit_tokens": 9})
    assert read is not None
    assert read.cached == 5


def test_the_sum_is_priced_with_cached_tokens_apart() -> None:
    cost = Cost()
    cost.add(Usage(1000, 100, 0))
    cost.add(Usage(1200, 50, 1000))
    assert cost.to_json(Prices(1.0, 0.1, 10.0)) == {
        "requests": 2,
        "prompt_tokens_sent": 2200,
        "cached_prompt_tokens": 1000,
        "completion_tokens": 150,
        "estimated_requests": 0,
        "usd": pytest.approx((1200 * 1.0 + 1000 * 0.1 + 150 * 10.0) / 1e6),
    }


def test_one_request_that_does_not_tell_what_was_cached_makes_the_sum_unknown_and_dearer() -> None:
    cost = Cost()
    cost.add(Usage(1000, 0, 1000))
    cost.add_estimate("x" * 40, 3)
    told = cost.to_json(Prices(1.0, 0.0, 0.0))
    assert (told["cached_prompt_tokens"], told["prompt_tokens_sent"], told["completion_tokens"]) == (None, 1010, 3)
    assert told["estimated_requests"] == 1
    assert told["usd"] == pytest.approx(1010 / 1e6)
    cost.add(Usage(10, 0, 10))
    assert cost.cached_prompt_tokens is None


def test_without_prices_there_is_no_sum_of_money() -> None:
    cost = Cost()
    cost.add(Usage(1, 1))
    assert cost.to_json(None)["usd"] is None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["1", "2"], "three numbers"),
        (["1", "x", "3"], "CACHED"),
        (["1", "2", "-3"], "OUTPUT"),
        (["inf", "2", "3"], "INPUT"),
    ],
)
def test_what_is_no_price_is_refused_by_name(values: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Prices.parse(values)


def test_prices_are_parsed() -> None:
    assert Prices.parse(["0.55", "0.14", "2.19"]) == Prices(0.55, 0.14, 2.19)
    assert Prices.parse(None) is None
