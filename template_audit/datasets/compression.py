"""Files as plain bytes, whether they are stored as they are, with gzip or with zstd.

What a file is compressed with is told from its first bytes, since files are often called otherwise.
A stream that is cut off gives all bytes that could be read, ends once, and then raises DataError.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from template_audit.errors import DataError, UsageError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SUFFIXES = (".gz", ".zst")
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_CHUNK = 1 << 18


def plain_path(path: Path) -> Path:
    """The path without the suffix of a compression."""
    return path.with_suffix("") if path.suffix.lower() in SUFFIXES else path


def first_bytes(path: Path, name: str) -> bytes:
    """The first eight bytes of a file as it is stored. Raises DataError."""
    try:
        with path.open("rb") as file:
            return file.read(8)
    except OSError as error:
        raise cannot_be_read(name, error) from None


def cannot_be_read(name: str, error: OSError) -> DataError:
    """The sentence for a file that the system does not give."""
    return DataError(f"{name} cannot be read: {error.strerror or error}.")


def open_binary(path: Path, name: str, advance: Callable[[int], None]) -> io.BufferedReader:
    """The content of a file. `name` is what messages call it; `advance` is told how many bytes were read.

    Raises DataError when it cannot be opened, UsageError when zstd is not installed; reading raises DataError.
    """
    head = first_bytes(path, name)
    try:
        stored: io.RawIOBase = _Counted(path, advance)
    except OSError as error:
        raise cannot_be_read(name, error) from None
    if head.startswith(_GZIP):
        read: Callable[[int], bytes] = gzip.GzipFile(fileobj=io.BufferedReader(stored, _CHUNK)).read1
    elif head.startswith(_ZSTD):
        read = _Zstd(stored, name).read
    else:
        read = stored.read
    return io.BufferedReader(_Guarded(read, stored, name), _CHUNK)


class _Counted(io.FileIO):
    def __init__(self, path: Path, advance: Callable[[int], None]) -> None:
        super().__init__(path)
        self._advance = advance

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        count = super().readinto(buffer) or 0
        self._advance(count)
        return count

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size) or b""
        self._advance(len(data))
        return data


class _Guarded(io.RawIOBase):
    """A stream whose failures are sentences. It ends where it is broken, and reading on raises DataError."""

    def __init__(self, read: Callable[[int], bytes], stored: io.RawIOBase, name: str) -> None:
        self._read, self._stored, self._name = read, stored, name
        self._failure: DataError | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        if self._failure is not None:
            raise self._failure
        view = memoryview(buffer)
        try:
            data = self._read(len(view))
        except EOFError:
            self._failure = DataError(f"{self._name} is cut off: its compressed data ends too early.")
        except (zlib.error, gzip.BadGzipFile) as error:
            self._failure = DataError(f"{self._name} is damaged: its gzip data cannot be decompressed ({error}).")
        except OSError as error:
            self._failure = cannot_be_read(self._name, error)
        except DataError as error:
            self._failure = error
        else:
            view[: len(data)] = data
            return len(data)
        return 0

    def close(self) -> None:
        self._stored.close()
        super().close()


class _Zstd:
    """Frames of zstd one after another; zstandard's own reader takes the end of the file for the end of the data."""

    def __init__(self, stored: io.RawIOBase, name: str) -> None:
        try:
            import zstandard
        except ImportError:
            raise UsageError(
                f"{name}: reading zstd needs the package `zstandard`: pip install 'template-audit[data]'."
            ) from None
        self._stored, self._name, self._library = stored, name, zstandard
        self._frame: Any = None
        self._failure: DataError | None = None
        self._ready = memoryview(b"")

    def read(self, size: int) -> bytes:
        while not self._ready:
            if self._failure is not None:
                raise self._failure
            data = self._stored.read(1 << 16) or b""
            if not data:
                if self._frame is not None:
                    raise EOFError
                return b""
            self._ready = memoryview(self._decompress(data))
        part, self._ready = self._ready[:size], self._ready[size:]
        return bytes(part)

    def _decompress(self, data: bytes) -> bytes:
        out = []
        while data:
            if self._frame is None:
                self._frame = self._library.ZstdDecompressor().decompressobj()
            try:
                out.append(self._frame.decompress(data))
            except self._library.ZstdError as error:
                self._failure = DataError(f"{self._name} is damaged: its zstd data cannot be decompressed ({error}).")
                break
            data = b""
            if self._frame.eof:
                data, self._frame = self._frame.unused_data, None
        return b"".join(out)
