"""Ids of many conversations held against the streams that an encoder makes of each."""

from __future__ import annotations

from template_audit.errors import EncodingError
from template_audit.ids import IdsBatch
from template_audit.stream import EncodedStream


def hold_against(made: IdsBatch, streams: list[EncodedStream | EncodingError]) -> None:
    """Ids, labels, notes and errors are the same, row by row."""
    assert len(made) == len(streams)
    for index, (row, stream) in enumerate(zip(made, streams, strict=True)):
        if isinstance(stream, EncodingError):
            assert isinstance(row, EncodingError)
            assert (str(row), row.kind) == (str(stream), stream.kind)
        else:
            assert not isinstance(row, EncodingError), row
            assert (row[0].tolist(), row[1].tolist()) == (stream.input_ids, stream.labels)
            assert made.notes.get(index, ()) == stream.notes
