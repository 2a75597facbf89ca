"""What `drr serve` says at once, before vLLM is imported."""

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drr import reference
from drr.errors import InputError
from server import trace_flags
from server.arguments import asks_for_own_help, own_help, own_parser
from server.contradictions import NEEDS, NOT_REMOTE
from server.early import check_early
from server.launch import main
from server.vllm_flags import check_known

HEAVY = ("torch", "vllm", "transformers", "sklearn", "matplotlib", "datasets", "scipy")


@pytest.fixture(scope="module")
def taken() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("", 0))
        listening.listen()
        yield int(listening.getsockname()[1])


def refused(*argv: str) -> str:
    with pytest.raises(InputError) as error:
        check_early(["--port", "0", *argv])
    return str(error.value)


def test_a_port_that_cannot_be_used_is_named(taken: int) -> None:
    assert refused("--port", str(taken)) == f"--port: {taken} is taken: another program listens there"
    for port in ("99999", "65536", "-1"):
        assert refused("--port", port) == f"--port: must lie between 0 and 65535, not {port}"


def test_an_address_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    assert refused("--host", "nowhere.invalid").startswith("--host: there is no host 'nowhere.invalid'")
    assert refused("--host", "192.0.2.1") == "--host: 192.0.2.1 is no address of this machine"
    assert refused("--host", "2001:db8::1").startswith("--host: 2001:db8::1")
    assert refused("--uds", str(tmp_path / "no" / "socket")).startswith("--uds: nothing can be made in")


def test_tls_settings_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    key, certificate, junk = tmp_path / "key", tmp_path / "certificate", tmp_path / "junk"
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl, which makes certificates, is not here")
    made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x"]
    subprocess.run([*made, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    junk.write_text("x")
    tls = ("--ssl-certfile", str(certificate), "--ssl-keyfile", str(key))
    assert refused(*tls, "--ssl-ca-certs", str(junk)).startswith(f"--ssl-ca-certs: {junk} cannot be used")
    assert refused(*tls, "--ssl-ciphers", "nonsense").startswith("--ssl-ciphers: nonsense cannot be used")


def test_weights_that_were_cut_off_are_named(tmp_path: Path) -> None:
    model = Path(shutil.copytree(reference.reasoner_folder(), tmp_path / "model"))
    weights = model / "model.safetensors"
    whole = weights.read_bytes()
    for content, said in (
        (whole[:-1], "is not whole"),
        (whole[:100], "is damaged"),
        (b"", "is damaged"),
        (b"\xff" * 99, "damaged"),
    ):
        weights.write_bytes(content)
        assert said in refused("--model", str(model))
    weights.write_bytes(whole)
    check_early(["--port", "0", "--model", str(model)])


def test_a_settings_file_is_yaml_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text("{}")
    assert "must be YAML" in refused("--config", str(tmp_path / "settings.json"))


def test_a_socket_s_path_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    assert "more than the 107 bytes" in refused("--uds", str(tmp_path / ("x" * 120)))
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path):
        assert refused("--uds", str(path)) == f"--uds: {path} is there already, and is no socket"
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        path = Path(folder) / "s"
        listening.bind(str(path))
        assert "has ended: remove it" in refused("--uds", str(path))
        listening.listen()
        assert "is taken" in refused("--uds", str(path))


@pytest.mark.parametrize(
    "option",
    [
        *("--ssl-keyfile", "--ssl-certfile", "--ssl-ca-certs", "--log-config-file", "--config", "--ssl_certfile"),
        *("--reasoning-parser-plugin", "--tool-parser-plugin", "--chat-template"),
    ],
)
def test_files_that_are_not_there_are_named(option: str, tmp_path: Path) -> None:
    name = option.replace("_", "-")
    assert refused(option, "/no/such.file") == f"{name}: there is no file /no/such.file"
    assert refused(f"{option}=/no/such.file") == f"{name}: there is no file /no/such.file"
    assert refused(option, str(tmp_path)) == f"{name}: {tmp_path} is a folder, not a file"


def test_certificates_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    assert "cannot be used" in refused("--ssl-certfile", str(broken))
    assert refused("--ssl-keyfile", str(broken)) == "--ssl-keyfile: needs --ssl-certfile"


def test_spans_that_cannot_be_sent_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = ("--otlp-traces-endpoint", "http://127.0.0.1:4317")
    check_early(["--port", "0", *endpoint, "--collect-detailed-traces", "model"])
    needs = "--collect-detailed-traces: needs --otlp-traces-endpoint"
    assert refused("--collect-detailed-traces", "model") == needs
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json")
    assert "must be grpc or http/protobuf, not 'http/json'" in refused(*endpoint)
    monkeypatch.setattr(trace_flags, "_OTEL", ("opentelemetry.no_such", "no_such_package.at_all"))
    told = "--otlp-traces-endpoint: needs the packages opentelemetry-sdk and opentelemetry-exporter-otlp"
    assert refused(*endpoint).startswith(told)


def test_folders_that_are_no_models_are_named(tmp_path: Path) -> None:
    for option in ("--model", "--tokenizer", "--prm"):
        assert refused(option, "/nope") == f"{option}: there is no folder /nope"
        assert f"{option}: {tmp_path} holds no model" in refused(option, str(tmp_path))
    with pytest.raises(InputError, match="--model: there is no folder /nope"):
        check_early(["/nope", "--port", "0"])  # the model may come first, without its flag


def test_folders_that_are_no_dms_are_named(tmp_path: Path) -> None:
    assert refused("--dm", "/nope") == "--dm: there is no folder /nope"
    assert "is no DM: it has no drr.json" in refused("--dm", str(tmp_path))
    damaged = tmp_path / "dm"
    shutil.copytree(reference.dm_folder(), damaged)
    (damaged / "head.json").write_text("{")
    assert "head.json" in refused("--dm", str(damaged))
    shutil.copy(reference.dm_folder() / "head.json", damaged)
    (damaged / "config.json").unlink()
    assert "holds no model" in refused("--dm", str(damaged))
    (damaged / "drr.json").write_text(json.dumps({"id": 3}))
    assert "drr.json" in refused("--dm", str(damaged))


def test_folders_without_calibrations_are_named(tmp_path: Path) -> None:
    assert refused("--drr-calibration", "/nope") == "--drr-calibration: there is no folder /nope"
    assert "holds no calibrated scorers" in refused("--drr-calibration", str(tmp_path))


def test_a_flag_that_nobody_has_is_named_with_the_nearest() -> None:
    for typed, meant in (("--prot", "--port"), ("--gpu_memory_utilisation", "--gpu-memory-utilization")):
        assert refused(typed, "1").endswith(f"did you mean {meant}?")
    assert refused("--drr-scorr=logprob").endswith("did you mean --drr-scorer?")
    assert refused("--dmm", "x").startswith("--dmm: neither DRR nor vLLM has this flag")


@pytest.mark.parametrize(
    "argv",
    [
        ["--max-model", "2048"],
        ["--no-enable-prefix-caching"],
        ["--speculative-config.method", "ngram"],
        ["--served_model_name", "x"],
        ["-tp", "2"],
        ["-O3"],
        ["--chat-template", "{{ messages }}"],
        ["--config", str(Path(__file__).parents[2] / "deploy" / "server.yaml"), "--drr-scorer", "dm"],
    ],
)
def test_what_is_vllms_is_left_to_vllm(argv: list[str]) -> None:
    check_early(["--port", "0", "--model", str(reference.reasoner_folder()), *argv])


def test_every_flag_of_vllms_is_known() -> None:
    from server.arguments import make_parser

    parser = make_parser()
    own = {text for action in own_parser()._actions for text in action.option_strings}
    flags = {text for action in parser._actions for text in action.option_strings}
    assert own < flags
    check_known(sorted(flags), own)


def test_drr_flags_need_each_other_only_where_they_exist() -> None:
    names = {action.dest for action in own_parser()._actions}
    assert {*NEEDS, *(other for others in NEEDS.values() for other in others), *NOT_REMOTE} <= names


def test_help_begins_with_drrs_own_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert said == own_help()
    assert said.index("--dm FOLDER") < said.index("--help=all")
    assert all(text in said for action in own_parser()._actions for text in action.option_strings)
    assert asks_for_own_help(["--model", "m", "-h"])
    assert asks_for_own_help(["--help=DRR"])
    assert not asks_for_own_help(["--help=all"])
    assert not asks_for_own_help(["--model", "m"])


def test_the_groups_that_help_names_are_vllms() -> None:
    from server.arguments import make_parser

    titles = {group.title for group in make_parser()._action_groups}
    assert {"Frontend", "ModelConfig", "ParallelConfig", "CacheConfig", "SchedulerConfig"} <= titles


@pytest.mark.parametrize("argv", [["--help"], ["--port", "99999"], ["--model", "/nope"], ["--prot", "1"]])
def test_it_is_said_within_a_second_and_without_vllm(argv: list[str]) -> None:
    code = (
        "import json, sys; from server.launch import main; status = main(sys.argv[1:]); "
        f"print(json.dumps([name for name in {HEAVY} if name in sys.modules]), file=sys.stderr); sys.exit(status)"
    )
    started = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == (0 if argv == ["--help"] else 2)
    *said, loaded = result.stderr.splitlines()
    assert json.loads(loaded) == []
    assert len(said) == (0 if argv == ["--help"] else 1)
    assert time.monotonic() - started < 10, "a second, and much more where others use the cores"
