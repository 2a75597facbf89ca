"""Keys: which are taken, which files are refused, and what an error never says."""

from pathlib import Path

import pytest

from drr.errors import InputError
from server.admission.api_keys import ApiKeys, KeyLimits

GOOD = "alice-alice-alice-1"


def bearer(key: str, scheme: str = "Bearer") -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"{scheme} {key}".encode())]


def test_keys_of_both_places_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# who\n\nalice:{GOOD}\nbob:b:b-bbbbbbbbbbbbbb running=2 tokens=500\n")
    keys = ApiKeys(["given"], path, KeyLimits(running=9))
    found = [keys.find(bearer(key)) for key in ("given", GOOD, "b:b-bbbbbbbbbbbbbb")]
    assert [key and (key.name, key.limits) for key in found] == [
        ("key-1", KeyLimits(9, None)),
        ("alice", KeyLimits(9, None)),
        ("bob", KeyLimits(2, 500)),
    ]
    assert keys.find([(b"x-api-key", GOOD.encode())])
    assert keys.find(bearer(GOOD, "bearer"))


@pytest.mark.parametrize(
    "headers",
    [
        [],
        bearer(""),
        bearer(GOOD + "x"),
        bearer(GOOD[:-1]),
        bearer(GOOD, "Basic"),
        [(b"authorization", GOOD.encode())],
        [(b"authorization", b"\xff\xfe Bearer")],
        [(b"x-api-key", b"")],
    ],
)
def test_others_are_not(tmp_path: Path, headers: list[tuple[bytes, bytes]]) -> None:
    path = tmp_path / "keys"
    path.write_text(f"alice:{GOOD}\n")
    assert ApiKeys((), path).find(headers) is None


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("secret-secret-secret", "must be name:key"),
        (":secret-secret-secret", "must be name:key"),
        ("a b:secret-secret-secret", "must be name:key"),
        ("bob:secret", "fewer than 16"),
        ("bob:sécret-secret-secret", "headers do not carry"),
        ("bob:secret-secret-secret tokens=0", "from 1 up"),
        ("bob:secret-secret-secret tokens", "from 1 up"),
        ("bob:secret-secret-secret speed=3", "running=N and tokens=N"),
        (f"alice:{GOOD}\nalice:secret-secret-secret", "two keys named alice"),
        ("key-1:secret-secret-secret", "two keys named key-1"),
    ],
)
def test_files_are_refused_by_line_and_never_repeated(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "keys"
    path.write_text(line + "\n")
    with pytest.raises(InputError) as told:
        ApiKeys(["given"], path)
    assert says in str(told.value)
    assert "secret" not in str(told.value)


def test_a_file_is_read_again_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"alice:{GOOD}\n")
    keys = ApiKeys((), path)
    path.write_text("bob:bob-bob-bob-bob-bob\n")
    assert keys.reload() == 1
    assert keys.find(bearer(GOOD)) is None
    path.write_text("bob\n")
    with pytest.raises(InputError):
        keys.reload()
    assert keys.find(bearer("bob-bob-bob-bob-bob"))
    path.unlink()
    with pytest.raises(InputError):
        keys.reload()
    assert keys.find(bearer("bob-bob-bob-bob-bob"))


def test_an_empty_file_keeps_everybody_out(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# nobody\n")
    assert ApiKeys((), path)
    assert not ApiKeys()
    assert "GOOD" not in repr(ApiKeys([GOOD]).find(bearer(GOOD)))
    assert GOOD not in repr(ApiKeys([GOOD]).find(bearer(GOOD)))
