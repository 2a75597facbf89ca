"""State heads inside a Reasoner's forward pass, on vLLM: what they say is right, and nothing else changes."""

import functools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from vllm.outputs import RequestOutput
from vllm.sampling_params import SamplingParams

from drr import reference
from drr.engine.devices import prepare_environment
from drr.engine.formats import choose_format
from drr.engine.judged_model import CONFIG_KEY, LEVEL, HeadsInLogits, judged, register_judged
from drr.engine.judged_plugin import ARCHITECTURE_VARIABLE
from drr.engine.state_head import StateHead
from drr.engine.state_ids import StateIds
from drr.engine.vllm_probe import VllmProbe
from drr.engine.vllm_reasoner import VllmReasoner
from drr.loop.reasoner import Phase, Segment, user_prompt
from tests.engine.judged_requests import Asked, Engine, environment_kept, open_judged, random_head, run

MODEL = reference.reasoner_folder()
SIZE, VOCABULARY = 256, 768
CLOSE = 2e-4
"""How far what is read may be from what transformers and the head compute: float32 sums in another order."""


# Without an engine


def head(seed: int = 0, size: int = 8) -> StateHead:
    torch.manual_seed(seed)
    made = StateHead(size, 4)
    nn.init.normal_(made.out.weight, std=3.0)
    return made.eval()


IDS, HEIR = StateIds(19, (18, 17, 3, 16)), 15


def written(logits: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    return HeadsInLogits([head(0), head(1)], IDS.all, HEIR, torch.device("cpu")).write(states, logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_outputs_are_read_back_whatever_the_logits_are_kept_in(dtype: torch.dtype) -> None:
    states, logits = torch.randn(5, 8).to(dtype), (torch.randn(5, 20) * 20).to(dtype)
    with torch.inference_mode():
        found = written(logits.clone(), states).log_softmax(-1)
        wanted = torch.cat([head(0)(states), head(1)(states)], dim=-1)
    for row in range(5):
        told = {token: SimpleNamespace(logprob=found[row, token].item()) for token in IDS.all}
        assert IDS.read(told) == pytest.approx(wanted[row].tolist(), abs=1e-4)


def test_the_other_logits_are_left_as_they_were() -> None:
    logits = torch.randn(5, 20)
    found = written(logits.clone(), torch.randn(5, 8))
    others = [token for token in range(20) if token not in (*IDS.all, HEIR)]
    assert torch.equal(found[:, others], logits[:, others])
    assert set(found[:, IDS.level].tolist()) == {LEVEL}


def test_the_probability_of_the_others_stays_what_it_was() -> None:
    logits = torch.randn(5, 20) * 3
    found = written(logits.clone(), torch.randn(5, 8))
    others = [token for token in range(20) if token not in (*IDS.all, HEIR)]
    assert torch.allclose(found.log_softmax(-1)[:, others], logits.log_softmax(-1)[:, others], atol=1e-6)
    before = logits.softmax(-1)[:, [*IDS.all, HEIR]].sum(-1)
    assert torch.allclose(found.softmax(-1)[:, HEIR], before)


def test_no_output_is_large_enough_to_be_sampled() -> None:
    wild = head()
    nn.init.constant_(wild.out.bias, 1e6)
    found = HeadsInLogits([wild], IDS.all[:3], HEIR, torch.device("cpu")).write(torch.randn(2, 8), torch.randn(2, 20))
    assert found[:, list(IDS.outputs[:2])].max() < -300
    hottest = (found / 2.0).softmax(-1)  # vLLM's highest temperature
    assert hottest[:, IDS.all[:3]].max() == 0.0


def test_vllm_neither_looks_for_the_heads_weights_nor_fills_them_with_noise() -> None:
    heads = HeadsInLogits([head()], IDS.all[:3], HEIR, torch.device("cpu"))
    assert not list(heads.parameters())
    assert not heads.state_dict()


class Plain(nn.Module):
    """A model of vLLM's, as far as it is judged."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__()
        self.logits: torch.Tensor | None = torch.zeros(2, 20)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        return None if self.logits is None else self.logits.clone()


def config(**more: Any) -> Any:
    return SimpleNamespace(additional_config=more, device_config=SimpleNamespace(device=torch.device("cpu")))


@pytest.fixture
def unmended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drr.engine.judged_model.mend_sampler", lambda: None)


def test_a_model_whose_engine_has_no_heads_is_as_it_was(unmended: None) -> None:
    model = judged(Plain)(vllm_config=config(other=1))
    assert isinstance(model, Plain)
    assert torch.equal(model.compute_logits(torch.ones(2, 8)), torch.zeros(2, 20))
    assert judged(Plain) is judged(Plain)


def test_a_process_that_holds_no_logits_writes_none(unmended: None, tmp_path: Path) -> None:
    head().save(tmp_path / "head")
    told = {"heads": [str(tmp_path / "head")], "ids": IDS.all[:3], "heir": HEIR}
    model = judged(Plain)(vllm_config=config(**{CONFIG_KEY: told}))
    assert (model.compute_logits(torch.ones(2, 8))[:, IDS.level] == LEVEL).all()
    model.logits = None
    assert model.compute_logits(torch.ones(2, 8)) is None


# On vLLM


QUESTIONS = [f"Tom has {n + 3} apples. He buys {n % 5 + 2} bags of {n % 7 + 2} apples. How many?" for n in range(12)]
OPTIONS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0, "top_k": 20},
    {"temperature": 1.5, "top_p": 0.9, "frequency_penalty": 0.5},
    {"temperature": 0.7, "min_p": 0.05, "repetition_penalty": 1.2, "logit_bias": {40: 3.0}},
]


def asked(wish: Mapping[str, Any], number: int) -> SamplingParams:
    return SamplingParams(seed=number, max_tokens=40, **OPTIONS[number % len(OPTIONS)], **wish)


WISHES: list[dict[str, Any]] = [{"logprobs": 3}, {"logprobs": -1}, {}, {"logprobs": 0}, {"logprob_token_ids": [5, 6]}]
"""What other requests want that share batches with judged ones."""


@dataclass
class Played:
    """What an engine was asked and said."""

    ids: StateIds
    prompts: list[list[int]]
    judged: list[RequestOutput]
    others: list[RequestOutput]
    probed: tuple[float, ...] | None = None
    streamed: tuple[tuple[int, tuple[float, ...] | None], ...] = ()


def requests(tokenizer: Any, ids: StateIds) -> tuple[list[list[int]], Asked, Asked]:
    """The prompts, judged requests, and others."""
    prompts = [user_prompt(tokenizer, question) for question in QUESTIONS]
    judged_ones = [(prompt, asked({"logprob_token_ids": ids.all}, n)) for n, prompt in enumerate(prompts)]
    return prompts, judged_ones, [(prompts[n], asked(wish, n)) for n, wish in enumerate(WISHES)]


async def play(engine: Engine, ids: StateIds) -> Played:
    """Judged requests, and others at the same time."""
    prompts, judged_ones, others = requests(engine.tokenizer, ids)
    found = await engine.answers([*judged_ones, *others])
    return Played(ids, prompts, found[: len(prompts)], found[len(prompts) :])


async def play_judged(heads: Sequence[Path], **options: Any) -> Played:
    async with open_judged(options.pop("model", MODEL), heads, max_logprobs=-1, **options) as engine:
        assert engine.ids is not None
        played = await play(engine, engine.ids)
        form = choose_format(engine.tokenizer).form
        assert form is not None
        probe = VllmProbe(engine.generate, engine.tokenizer, form, "a", state_ids=engine.ids)
        played.probed = await probe.states(played.prompts[0])
        reasoner = VllmReasoner(
            engine.generate, engine.tokenizer, {"type": "token"}, asked({}, 0), "b", {}, state_ids=engine.ids
        )
        segment = Segment(Phase.THINK, 0, played.prompts[0], (), max_tokens=40)
        tokens = [token async for delta in reasoner.stream(segment) for token in delta.tokens]
        played.streamed = tuple((token.id, token.states) for token in tokens)
        return played


async def play_without(ids: StateIds, **options: Any) -> Played:
    """The same without heads. vLLM's own sampler loses alternatives in mixed batches: one request at a time."""
    async with open_judged(options.pop("model", MODEL), [], max_logprobs=-1, **options) as engine:
        prompts, judged_ones, others = requests(engine.tokenizer, ids)
        return Played(ids, prompts, await engine.answers(judged_ones), await engine.one_by_one(others))


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    before = dict(os.environ)
    prepare_environment(quiet=True)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("heads")
    return [random_head(folder / f"head{seed}.safetensors", SIZE, seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def played(heads: list[Path]) -> Played:
    return run(play_judged(heads))


@pytest.fixture(scope="module")
def plain(played: Played) -> Played:
    """The same said by an engine without heads, in an environment that tells its processes of the judged class."""
    with environment_kept():
        os.environ[ARCHITECTURE_VARIABLE] = "Qwen2ForCausalLM"
        register_judged("Qwen2ForCausalLM")
        return run(play_without(played.ids))


@functools.cache
def by_transformers(model: Path, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()


def reference_states(output: RequestOutput, model: Path = MODEL, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """By transformers: the hidden states from which each of the output's tokens was sampled."""
    lm = by_transformers(model, dtype)
    assert output.prompt_token_ids is not None
    prompt, tokens = list(output.prompt_token_ids), list(output.outputs[0].token_ids)
    with torch.no_grad():
        states: torch.Tensor = lm.model(torch.tensor([prompt + tokens])).last_hidden_state[0]
    return states[len(prompt) - 1 : -1]


def farthest(played: Played, heads: Sequence[Path], **options: Any) -> float:
    """The largest difference between what was read at any token and what the heads make of transformers' states."""
    apart = 0.0
    for output in played.judged:
        states = reference_states(output, **options)
        wanted = torch.cat([StateHead.load(path)(states) for path in heads], dim=-1)
        told = output.outputs[0].logprobs
        assert told is not None
        assert len(told) == len(wanted) > 0
        for row, position in zip(wanted.tolist(), told, strict=True):
            read = played.ids.read(position)
            assert read is not None
            apart = max(apart, *(abs(one - other) for one, other in zip(read, row, strict=True)))
    return apart


def tokens_of(outputs: Sequence[RequestOutput]) -> list[tuple[list[int], str | None]]:
    return [(list(output.outputs[0].token_ids), output.outputs[0].finish_reason) for output in outputs]


def test_heads_say_at_every_token_what_they_make_of_the_states(played: Played, heads: list[Path]) -> None:
    assert farthest(played, heads) < CLOSE


def test_sampled_tokens_are_the_same_without_heads(played: Played, plain: Played) -> None:
    assert tokens_of(played.judged) == tokens_of(plain.judged)
    assert tokens_of(played.others) == tokens_of(plain.others)


def heir_of(played: Played) -> int:
    """The highest of the spare ids."""
    return played.ids.level + 1


def test_everyone_in_a_batch_is_told_what_they_asked_for(played: Played) -> None:
    for wish, output in zip(WISHES, played.others, strict=True):
        completion = output.outputs[0]
        if not wish:
            assert completion.logprobs is None
            continue
        assert completion.logprobs is not None
        logits = reference_states(output) @ by_transformers(MODEL).lm_head.weight.detach().T
        heir = heir_of(played)
        logits[:, heir] = logits[:, [heir, *played.ids.all]].logsumexp(-1)
        logits[:, played.ids.all] = -math.inf
        for token, position, row in zip(completion.token_ids, completion.logprobs, logits.log_softmax(-1), strict=True):
            count = wish.get("logprobs")
            likeliest = row.topk(VOCABULARY if count == -1 else count or 0).indices.tolist()
            assert set(position) == {token, *wish.get("logprob_token_ids", likeliest)}
            for told in set(position) - set(played.ids.all):
                assert position[told].logprob == pytest.approx(row[told].item(), abs=1e-3)


def test_what_others_are_told_is_what_an_engine_without_heads_tells(played: Played, plain: Played) -> None:
    spare = {*played.ids.all, heir_of(played)}
    for output, other in zip(played.others, plain.others, strict=True):
        for position, again in zip(output.outputs[0].logprobs or (), other.outputs[0].logprobs or (), strict=True):
            for token in set(position) & set(again) - spare:
                assert position[token].logprob == pytest.approx(again[token].logprob, abs=4e-6)


def test_an_engine_without_heads_says_nothing_through_the_same_ids(plain: Played) -> None:
    for output in plain.judged:
        told = output.outputs[0].logprobs
        assert told is not None
        assert all(plain.ids.read(position) is None for position in told)
        assert all(position[plain.ids.level].logprob > LEVEL / 2 for position in told)


def test_the_reasoner_and_the_probe_read_the_same(played: Played) -> None:
    told = played.judged[0].outputs[0].logprobs
    assert told is not None
    read = [played.ids.read(position) for position in told]
    assert [token for token, _ in played.streamed] == list(played.judged[0].outputs[0].token_ids)
    assert read[0] is not None
    assert played.probed == pytest.approx(read[0], abs=CLOSE)
    for (_, states), again in zip(played.streamed, read, strict=True):
        assert again is not None
        assert states == pytest.approx(again, abs=CLOSE)
