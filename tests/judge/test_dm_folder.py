"""A DM on disk, and what binds it to its Reasoner."""

from pathlib import Path

from drr.judge.dm_folder import fingerprint

SIZE = 70 << 20


def weights(folder: Path, place: int) -> Path:
    """A large file that differs from zeros in one byte; it takes no room on the disk."""
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(SIZE)
        file.seek(place)
        file.write(b"x")
    return folder


def test_weights_that_differ_anywhere_are_others(tmp_path: Path) -> None:
    places = (0, SIZE // 2, SIZE - 1)
    found = {fingerprint(weights(tmp_path / str(place), place)) for place in places}
    assert len(found) == len(places)
    assert fingerprint(weights(tmp_path / "again", SIZE // 2)) in found
    assert fingerprint(tmp_path) == "", "no weights, no fingerprint"
