"""`drr serve`'s options: vLLM's reach vLLM, and what cannot be honoured is refused."""

from types import SimpleNamespace

import pytest
from vllm.engine.arg_utils import AsyncEngineArgs

from drr import reference
from drr.errors import InputError
from server import arguments
from server.arguments import parse_args
from server.early import check_early
from server.engine import ThinkingEngine
from server.ranks import Ranks
from server.serving import reasoning_format

MODEL = ["--model", "some/model"]
DM = str(reference.dm_folder())


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["--api-server-count", "2"], "one API server"),
        (["--headless"], "one API server"),
        (["--grpc"], "HTTP"),
        (["--dtype", "float8"], "invalid choice: 'float8'"),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    given: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_args([*MODEL, *given])
    said = capsys.readouterr().err
    assert complaint in said
    assert said.count("\n") == 1, "no usage before it"


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["--dm-cpus", "0"], "--dm-cpus: needs --dm"),
        (["--dm-url", "http://x"], "--dm-url: needs --dm"),
        (["--dm-allow-mismatch"], "--dm-allow-mismatch: needs --dm"),
        (["--dm-nice", "3"], "--dm-nice: needs --dm"),
        (["--dm-kv-cache-memory-bytes", "9000000"], "--dm-kv-cache-memory-bytes: needs --dm"),
        (["--prm-gpu-memory-utilization", "0.2"], "--prm-gpu-memory-utilization: needs --prm"),
        (["--dm", "dm", "--dm-url", "http://x", "--dm-cpus", "0"], "--dm-cpus: has no effect: the DM runs at --dm-url"),
        (["--dm", "dm", "--dm-url", "http://x", "--dm-nice", "1"], "--dm-nice: has no effect"),
        (["--dm", "dm", "--dm-url", "nowhere"], "--dm-url: must be an address"),
        (["--dm", "dm", "--dm-nice", "20"], "--dm-nice: must be from 0 to 19"),
        (["--dm", "dm", "--dm-gpu-memory-utilization", "1.5"], "--dm-gpu-memory-utilization: must lie between 0 and 1"),
        (["--drr-scorer", "dm"], "--drr-scorer dm: needs --dm"),
        (["--drr-scorer", "prm"], "--drr-scorer prm: needs --prm"),
        (["--drr-mode", "shadow"], "--drr-mode shadow: needs --dm"),
        (["--dm", "dm", "--dm-deadline-ms", "0"], "--dm-deadline-ms: must be above 0"),
        (["--drr-answer-tokens", "0"], "--drr-answer-tokens: must be above 0"),
        (["--drr-step-rule", "word"], "--drr-step-rule: step rule 'word' is none of"),
        (["--drr-reasoner-cpus", "x"], "--drr-reasoner-cpus: must name cores"),
        (["--drr-answer-cue", " "], "--drr-answer-cue: must not be blank"),
        (["--enable-auto-tool-choice"], "--enable-auto-tool-choice requires --tool-call-parser"),
    ],
)
def test_what_contradicts_itself_is_refused_with_and_without_vllm(given: list[str], complaint: str) -> None:
    with pytest.raises(InputError) as late:
        parse_args([*MODEL, *given])
    assert complaint in str(late.value)
    if "--enable-auto-tool-choice" not in given:
        with pytest.raises(InputError) as early:
            check_early([*MODEL, "--port", "0", *given])
        assert str(early.value) == str(late.value)


def test_the_reference_pair_streams_in_larger_chunks_unless_told_otherwise() -> None:
    assert parse_args([]).stream_interval == 8
    assert parse_args(["--stream-interval", "1"]).stream_interval == 1
    assert parse_args(MODEL).stream_interval == AsyncEngineArgs.stream_interval == 1
    assert parse_args([*MODEL, "--stream-interval", "4"]).stream_interval == 4


def test_compiling_is_refused_where_nothing_would_be_compiled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(arguments, "on_cpu", lambda: True)
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    with pytest.raises(SystemExit):
        parse_args([*MODEL, "--no-enforce-eager"])
    assert "TORCH_COMPILE_DISABLE=0" in capsys.readouterr().err
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "0")
    assert parse_args([*MODEL, "--no-enforce-eager"]).enforce_eager is False


def test_judges_take_their_share_of_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(arguments, "on_cpu", lambda: False)
    alone, judged, remote = (
        parse_args([*MODEL, *own]).gpu_memory_utilization
        for own in ([], ["--dm", DM], ["--dm", DM, "--dm-url", "http://x"])
    )
    assert judged == pytest.approx(alone - 0.1)
    assert remote == alone
    with pytest.raises(SystemExit):
        parse_args([*MODEL, "--dm", DM, "--gpu-memory-utilization", "0.95"])
    assert "--dm-gpu-memory-utilization" in capsys.readouterr().err


def test_parallelism_reaches_vllm() -> None:
    args = parse_args(
        [
            *(*MODEL, "--tensor-parallel-size", "2", "--pipeline-parallel-size", "3", "--data-parallel-size", "4"),
            *("--distributed-executor-backend", "ray", "--data-parallel-backend", "ray", "--max-num-seqs", "77"),
            *("--quantization", "fp8", "--enable-expert-parallel", "--kv-cache-dtype", "fp8"),
        ]
    )
    engine = AsyncEngineArgs.from_cli_args(args)
    assert (engine.tensor_parallel_size, engine.pipeline_parallel_size, engine.data_parallel_size) == (2, 3, 4)
    assert (engine.distributed_executor_backend, engine.data_parallel_backend) == ("ray", "ray")
    assert (engine.max_num_seqs, engine.quantization, engine.kv_cache_dtype) == (77, "fp8", "fp8")
    assert engine.enable_expert_parallel


def test_a_response_runs_on_the_rank_with_the_fewest() -> None:
    ranks = Ranks(3)
    with ranks.one() as first, ranks.one() as second, ranks.one() as third:
        assert {first, second, third} == {0, 1, 2}
        with ranks.one() as fourth:
            assert fourth == first, "in turn where all are alike"
    with ranks.one() as kept:
        with ranks.one():
            pass
        with ranks.one() as other:
            assert other != kept


def test_a_rank_is_free_again_after_an_error() -> None:
    ranks = Ranks(2)
    with pytest.raises(RuntimeError), ranks.one():
        raise RuntimeError
    with ranks.one() as one, ranks.one() as other:
        assert {one, other} == {0, 1}


class Unstarted(ThinkingEngine):
    """An engine that knows how many there are of it, and nothing else."""

    def __init__(self, count: int) -> None:
        self.engine_core = SimpleNamespace(core_engines=[b""] * count)

    def __del__(self) -> None:
        """There is nothing to shut down."""


def test_all_engine_requests_of_a_response_stay_on_one_rank() -> None:
    engine = Unstarted(2)
    with engine._pinned({"priority": 1}) as first, engine._pinned({}) as second:
        assert first["priority"] == 1
        assert {first["data_parallel_rank"], second["data_parallel_rank"]} == {0, 1}
    with engine._pinned({"data_parallel_rank": 1}) as asked:
        assert asked["data_parallel_rank"] == 1, "a router knows better"


def test_one_engine_needs_no_rank() -> None:
    with Unstarted(1)._pinned({}) as options:
        assert options == {}


@pytest.mark.parametrize("judge", [[], ["--drr-scorer", "logprob"]])
def test_a_reasoning_parser_that_is_named_is_used(judge: list[str]) -> None:
    model = str(reference.reasoner_folder())
    named = parse_args(["--model", model, "--reasoning-parser", "qwen3", *judge])
    assert reasoning_format(named).kind == "marker tokens"  # type: ignore[union-attr]
    assert "qwen3" in (named.reasoning_parser, named.structured_outputs_config.reasoning_parser)
    assert "deepseek_r1" not in (named.reasoning_parser, named.structured_outputs_config.reasoning_parser)
    unnamed = parse_args(["--model", model, *judge])
    reasoning_format(unnamed)
    assert unnamed.structured_outputs_config.reasoning_parser == "deepseek_r1"


def test_a_parser_that_marks_nothing_is_vllms_own_business_without_a_judge() -> None:
    plain = parse_args(["--model", str(reference.reasoner_folder()), "--reasoning-parser", "hunyuan_a13b"])
    assert reasoning_format(plain) is None
