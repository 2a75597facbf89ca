"""What is in a file, by its bytes and never by its name: unpacked, told from other formats, decoded."""

import bz2
import codecs
import gzip
import lzma
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from drr.errors import InputError

PARQUET, ARROW_FILE, ARROW_STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"


def _unpack_zstandard(data: bytes) -> bytes:
    return bytes(pa.input_stream(pa.BufferReader(data), compression="zstd").read())


_PACKED: tuple[tuple[re.Pattern[bytes], str, Callable[[bytes], bytes]], ...] = (
    (re.compile(rb"\x1f\x8b"), "gzip", gzip.decompress),
    (re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), "bzip2", bz2.decompress),
    (re.compile(rb"\xfd7zXZ\0"), "xz", lzma.decompress),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "Zstandard", _unpack_zstandard),
)
_DEEPEST_PACKING = 3

_EXPORT = "save it as JSON lines, CSV or Parquet"
_REFUSED = (
    (b"PK\x03\x04", f"is a ZIP archive or a spreadsheet: unpack it, or {_EXPORT}"),
    (b"\xd0\xcf\x11\xe0", f"is an old Office document: {_EXPORT}"),
    (b"%PDF", f"is a PDF document: {_EXPORT}"),
    (b"SQLite format 3\0", f"is an SQLite database: {_EXPORT}"),
    (b"Obj\x01", f"is an Avro file: {_EXPORT}"),
    (b"\x93NUMPY", f"is a NumPy array: {_EXPORT}"),
    (b"\x89HDF", f"is an HDF5 file: {_EXPORT}"),
    (b"\x80\x04\x95", f"is a pickle, which is never loaded: {_EXPORT}"),
    (b"\x80\x05\x95", f"is a pickle, which is never loaded: {_EXPORT}"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the data: run git lfs pull"),
    (b"<!DOCTYPE", "is a web page, not the data"),
    (b"<!doctype", "is a web page, not the data"),
    (b"<html", "is a web page, not the data"),
)

# Longer marks first: the mark of UTF-16 begins that of UTF-32.
_MARKS = (
    (codecs.BOM_UTF8, "UTF-8", "surrogateescape"),
    (codecs.BOM_UTF32_LE, "UTF-32-LE", "surrogatepass"),
    (codecs.BOM_UTF32_BE, "UTF-32-BE", "surrogatepass"),
    (codecs.BOM_UTF16_LE, "UTF-16-LE", "surrogatepass"),
    (codecs.BOM_UTF16_BE, "UTF-16-BE", "surrogatepass"),
    (b"", "UTF-8", "surrogateescape"),
)


def contents(path: Path) -> bytes:
    """The bytes of a file, unpacked if it is packed (gzip, bzip2, xz, Zstandard). InputError if it cannot be read, is
    damaged or is of a format that holds no rows."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(str(path), f"cannot be read: {error.strerror}") from error
    for _ in range(_DEEPEST_PACKING):
        packing = next((packing for packing in _PACKED if packing[0].match(data)), None)
        if packing is None:
            break
        try:
            data = packing[2](data)
        except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, MemoryError) as error:
            raise InputError(str(path), f"is a damaged {packing[1]} file: {error}") from error
    for mark, reason in _REFUSED:
        if data.startswith(mark):
            raise InputError(str(path), reason)
    return data


def decoded(path: Path, data: bytes) -> tuple[str, str]:
    """The text of a file without its byte order mark, and the name of its encoding. Without a mark it is UTF-8, or
    UTF-16 if every other of the first bytes is zero (RFC 4627, section 3).

    Bytes that are no text become surrogates, so that only the rows that hold them are lost. InputError if the file is
    empty, or broken off within a character of a wider encoding.
    """
    mark, encoding, errors = next(kind for kind in _MARKS if data.startswith(kind[0]))
    zeros = [not byte for byte in data[:4]]
    if zeros in ([False, True, False, True], [True, False, True, False]):
        encoding, errors = ("UTF-16-BE" if zeros[0] else "UTF-16-LE"), "surrogatepass"
    try:
        text = data[len(mark) :].decode(encoding, errors)
    except UnicodeDecodeError as error:
        raise InputError(str(path), f"is not {encoding} text as its first bytes say: {error.reason}") from error
    if not text.strip("\ufeff\0 \t\r\n"):
        raise InputError(str(path), "is empty")
    return text, encoding
