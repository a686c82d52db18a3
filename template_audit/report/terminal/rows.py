"""An alignment as rows to print: one row per stretch of one message, one kind of difference, one training state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, zip_longest
from typing import Literal, NamedTuple

from template_audit.alignment import Alignment, Hunk, HunkKind
from template_audit.stream import IGNORE, EncodedStream, Origin

RowKind = HunkKind | Literal["labels"]


class Run(NamedTuple):
    """Tokens ``start:end`` of one stream that belong to one message and are all trained or all masked."""

    start: int
    end: int
    message: int | None
    trained: bool


@dataclass(frozen=True, slots=True)
class Row:
    """What stands beside each other. An absent side is None.

    `kind` is that of the hunk; "labels" when the ids are equal and only one side is trained.
    """

    kind: RowKind
    left: Run | None
    right: Run | None
    role: str

    @property
    def message(self) -> int | None:
        """The index of the message that the row belongs to."""
        run = self.left or self.right
        return run.message if run else None

    @property
    def tokens(self) -> int:
        """The length of the longer side."""
        return max((run.end - run.start for run in (self.left, self.right) if run), default=0)

    @property
    def same(self) -> bool:
        """True when both sides agree, ids and training."""
        return self.kind == "equal"


class Gap(NamedTuple):
    """Equal rows that are left out: how many tokens, and the messages they belong to."""

    tokens: int
    messages: tuple[int, ...]


def messages_of(stream: EncodedStream) -> list[tuple[int | None, str]]:
    """For each token the message it belongs to and that message's role; (None, "") outside every turn."""
    out: list[tuple[int | None, str]] = [(None, "")] * len(stream)
    for turn in stream.turns:
        for i in range(turn.start, min(turn.end, len(out))):
            out[i] = (turn.message, turn.role)
    return out


def rows(alignment: Alignment) -> list[Row]:
    """The alignment's hunks cut at message boundaries and where training starts or stops."""
    ref, sub = alignment.reference, alignment.subject
    ref_messages, sub_messages = messages_of(ref), messages_of(sub)
    roles: dict[int | None, str] = {}
    for message, role in ref_messages + sub_messages:
        roles.setdefault(message, role)
    out: list[Row] = []
    for kind, ref_start, ref_end, sub_start, sub_end in _smooth(alignment):
        if kind == "equal":
            out.extend(_equal(ref, sub, ref_messages, roles, ref_start, sub_start, ref_end - ref_start))
            continue
        left = _runs(ref, ref_messages, ref_start, ref_end)
        right = _runs(sub, sub_messages, sub_start, sub_end)
        pairs = _paired(left, right) if kind in ("missing", "extra", "replaced") else _together(left, right)
        for a, b in pairs:
            run = a or b
            both: RowKind = kind if a and b else ("missing" if a else "extra")
            out.append(Row(both, a, b, roles.get(run.message if run else None, "")))
    return out


def _smooth(alignment: Alignment) -> list[Hunk]:
    """The hunks, with untrained blanks that two differing hunks happen to share drawn as part of both."""
    hunks = alignment.hunks
    origins = alignment.reference.origins
    out: list[Hunk] = []
    k = 0
    while k < len(hunks):
        hunk = hunks[k]
        while k + 2 < len(hunks) and hunk.kind != "equal" and _is_blank(alignment, origins, hunks[k + 1]):
            k += 2
            hunk = Hunk("replaced", hunk.ref_start, hunks[k].ref_end, hunk.sub_start, hunks[k].sub_end)
        out.append(hunk)
        k += 1
    return out


def _is_blank(alignment: Alignment, origins: list[Origin], hunk: Hunk) -> bool:
    ref, sub = alignment.reference, alignment.subject
    return (
        hunk.kind == "equal"
        and not "".join(ref.token_text(i) for i in range(hunk.ref_start, hunk.ref_end)).strip()
        and all(origins[i].field == "literal" for i in range(hunk.ref_start, hunk.ref_end))
        and all(label == IGNORE for label in ref.labels[hunk.ref_start : hunk.ref_end])
        and all(label == IGNORE for label in sub.labels[hunk.sub_start : hunk.sub_end])
    )


def collapsed(all_rows: list[Row]) -> Iterator[Row | Gap]:
    """The rows, with every stretch of equal ones cut down to those beside a difference."""
    last = len(all_rows) - 1
    for same, group in groupby(range(len(all_rows)), key=lambda i: all_rows[i].same):
        indices = list(group)
        head = 0 if indices[0] == 0 else 1
        tail = 0 if indices[-1] == last else 1
        if not same or len(indices) <= head + tail + 1:
            yield from (all_rows[i] for i in indices)
            continue
        middle = [all_rows[i] for i in indices[head : len(indices) - tail]]
        yield from (all_rows[i] for i in indices[:head])
        messages = dict.fromkeys(row.message for row in middle if row.message is not None)
        yield Gap(sum(row.tokens for row in middle), tuple(messages))
        yield from (all_rows[i] for i in indices[len(indices) - tail :])


def _equal(
    ref: EncodedStream,
    sub: EncodedStream,
    messages: list[tuple[int | None, str]],
    roles: dict[int | None, str],
    ref_start: int,
    sub_start: int,
    length: int,
) -> Iterator[Row]:
    def key(k: int) -> tuple[int | None, bool, bool]:
        i, j = ref_start + k, sub_start + k
        return messages[i][0], ref.labels[i] != IGNORE, sub.labels[j] != IGNORE

    for (message, ref_trained, sub_trained), group in groupby(range(length), key=key):
        ks = list(group)
        left = Run(ref_start + ks[0], ref_start + ks[-1] + 1, message, ref_trained)
        right = Run(sub_start + ks[0], sub_start + ks[-1] + 1, message, sub_trained)
        yield Row("equal" if ref_trained == sub_trained else "labels", left, right, roles.get(message, ""))


def _runs(stream: EncodedStream, messages: list[tuple[int | None, str]], start: int, end: int) -> list[Run]:
    out: list[Run] = []
    for (message, trained), group in groupby(
        range(start, end), key=lambda i: (messages[i][0], stream.labels[i] != IGNORE)
    ):
        tokens = list(group)
        out.append(Run(tokens[0], tokens[-1] + 1, message, trained))
    return out


def _paired(left: list[Run], right: list[Run]) -> Iterator[tuple[Run | None, Run | None]]:
    """Lay the runs of one hunk side by side, in order: message with message, trained with trained.

    Text before the first message is kept apart. A framework may count the next header to the message
    before it; where the two sides do not name the same messages, the messages are not told apart.
    """
    yield from zip_longest(_outside(left), _outside(right))
    a, b = _inside(left), _inside(right)
    if a and b and {run.message for run in a} != {run.message for run in b}:
        yield from _together(a, b)
    else:
        yield from _merged(a, b)


def _together(left: list[Run], right: list[Run]) -> Iterator[tuple[Run | None, Run | None]]:
    """The runs of both sides, trained with trained, as if they were of one message."""
    message = next((run.message for run in left + right if run.message is not None), None)
    yield from _merged(_joined(left, message), _joined(right, message))


def _merged(left: list[Run], right: list[Run]) -> Iterator[tuple[Run | None, Run | None]]:
    a, b = list(left), list(right)
    while a or b:
        take_left = not b or (bool(a) and _comes_first(a, b))
        take_right = not a or (bool(b) and _comes_first(b, a))
        if not take_left and not take_right:
            take_left = take_right = True
        yield (a.pop(0) if take_left else None), (b.pop(0) if take_right else None)


def _comes_first(runs: list[Run], others: list[Run]) -> bool:
    """True when the first of `runs` has no counterpart at the head of `others` and precedes it."""
    run, other = runs[0], others[0]
    if run.message != other.message:
        return (run.message or 0) < (other.message or 0)
    return run.trained != other.trained and (len(runs) > len(others) or (len(runs) == len(others) and not run.trained))


def _outside(runs: list[Run]) -> list[Run]:
    return [run for run in runs if run.message is None]


def _inside(runs: list[Run]) -> list[Run]:
    return [run for run in runs if run.message is not None]


def _joined(runs: list[Run], message: int | None) -> list[Run]:
    out: list[Run] = []
    for run in runs:
        if out and out[-1].trained == run.trained:
            out[-1] = out[-1]._replace(end=run.end)
        else:
            out.append(run._replace(message=message))
    return out
