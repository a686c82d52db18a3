"""The comparison of two streams: what it must find, and what must hold whatever it is given."""

from __future__ import annotations

import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.alignment import CASES as GENERATED
from template_audit.alignment import Alignment, LabelHunk, compare
from template_audit.stream import IGNORE, LITERAL, EncodedStream, Origin, Piece
from tests.builders import stream


def shown(alignment: Alignment) -> list[tuple[str, str, str]]:
    """Hunks that are not equal, as (kind, reference tokens, subject tokens), tokens joined with `·`."""

    def tokens(side: EncodedStream, start: int, end: int) -> str:
        return "·".join(side.token_text(i) for i in range(start, end))

    return [
        (h.kind, tokens(alignment.reference, h.ref_start, h.ref_end), tokens(alignment.subject, h.sub_start, h.sub_end))
        for h in alignment.hunks
        if h.kind != "equal"
    ]


CHATML = "<|im_start|>user\n{0:hi}<|im_end|>\n<|im_start|>assistant\n«{1:hello}<|im_end|>»\n"
SYSTEM = "<|im_start|>system\nYou are Q<|im_end|>\n"

CASES = {
    "equal": (CHATML, CHATML, []),
    "merged newlines are the same text": (
        "<|im_start|>user\n\n{0:hi}",
        "<|im_start|>user\n¦\n{0:hi}",
        [("segmentation", "\n\n", "\n·\n")],
    ),
    "one special token against its pieces": (
        "{0:hi}<|im_end|>",
        "{0:hi}<|im¦_end|>",
        [("segmentation", "<|im_end|>", "<·|·im·_end·|·>")],
    ),
    "a boundary token that holds text of two fields": (
        "user:\n{0:\nhi}",
        "user:\n¦{0:\nhi}",
        [("segmentation", "\n\n", "\n·\n")],
    ),
    "other whitespace": ("user\n{0:hi}", "user\n\n{0:hi}", [("whitespace", "\n", "\n\n")]),
    "content trimmed on one side": (
        "<s>{0: hi\n}</s>",
        "<s>{0:hi}</s>",
        [("whitespace", " hi·\n", "hi")],
    ),
    "a whole turn is missing, and begins where the turn begins": (
        SYSTEM + CHATML,
        CHATML,
        [("missing", "<|im_start|>·system·\n·You· are· Q·<|im_end|>·\n", "")],
    ),
    "a whole turn too many": (
        CHATML,
        SYSTEM + CHATML,
        [("extra", "", "<|im_start|>·system·\n·You· are· Q·<|im_end|>·\n")],
    ),
    "markers of another family, turn by turn": (
        "[|user|]{0:hi}</s>\n[|assistant|]{1:ok}",
        "<|user|>{0:hi}<|im_end|><|assistant|>{1:ok}",
        [
            ("replaced", "[·|·user·|·]", "<·|·user·|·>"),
            ("replaced", "</s>·\n", "<|im_end|>"),
            ("replaced", "[·|·assistant·|·]", "<·|·assistant·|·>"),
        ],
    ),
    "a long sentence against another keeps no chance agreements": (
        "<s>You are a model made by one company.</s>{0:hi}",
        "<s>Answer as a friend would.</s>{0:hi}",
        [
            (
                "replaced",
                "You· are· a· model· made· by· one· company",
                "Answer· as· a· friend· would",
            )
        ],
    ),
    "a special token with other text": ("{0:hi}</s>", "{0:hi}<|im_end|>", [("replaced", "</s>", "<|im_end|>")]),
    "content cut short": ("<s>{0:a b c d}</s>", "<s>{0:a b}", [("missing", " c· d·</s>", "")]),
    "a message that is not there": (
        "<s>{0:hi}</s><s>{1:ok}</s>",
        "<s>{0:hi}</s>",
        [("missing", "<s>·ok·</s>", "")],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_hunks(case: str) -> None:
    reference, subject, expected = CASES[case]
    assert shown(compare(stream(reference), stream(subject))) == expected


def test_content_is_an_anchor_even_when_it_reads_like_a_header() -> None:
    reference = stream("<s>user\n{0:assistant\n}</s><s>assistant\n{1:user\n}</s>")
    subject = stream("<s>assistant\n{0:assistant\n}</s><s>user\n{1:user\n}</s>")
    assert shown(compare(reference, subject)) == [("replaced", "user", "assistant"), ("replaced", "assistant", "user")]


def test_label_hunks_name_the_side_that_trains() -> None:
    reference = stream("<|im_start|>user\n{0:hi}<|im_end|>\n<|im_start|>assistant\n«{1:hello}<|im_end|>»\n")
    subject = stream("<|im_start|>user\n{0:«hi»}<|im_end|>\n<|im_start|>assistant\n«{1:hello}»<|im_end|>\n")
    assert compare(reference, subject).label_hunks == [
        LabelHunk("subject", 3, 4, 3, 4),
        LabelHunk("reference", 10, 11, 10, 11),
    ]


def test_labels_are_not_compared_where_the_tokens_differ() -> None:
    assert compare(stream("«{0:a}»</s>"), stream("{0:b}</s>")).label_hunks == []


def test_subject_index_follows_equal_tokens_only() -> None:
    alignment = compare(stream(SYSTEM + CHATML), stream(CHATML))
    assert alignment.subject_index(0) is None
    assert alignment.subject_index(8) == 0


def test_pieces_of_one_character() -> None:
    """Byte pieces share their character: no cut between them, whatever the other side does."""
    text, origin = "a한b", [Piece(0, 3, Origin(0, "content"))]
    whole = EncodedStream([1, 2, 3], [IGNORE] * 3, text, [(0, 1), (1, 2), (2, 3)], origin)
    bytes_ = EncodedStream([1, 7, 8, 9, 3], [IGNORE] * 5, text, [(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)], origin)
    assert [tuple(h) for h in compare(whole, bytes_).hunks] == [
        ("equal", 0, 1, 0, 1),
        ("segmentation", 1, 2, 1, 4),
        ("equal", 2, 3, 4, 5),
    ]


def test_tokens_without_text() -> None:
    plain = EncodedStream([1, 2], [IGNORE] * 2, "ab", [(0, 1), (1, 2)], [Piece(0, 2, LITERAL)])
    padded = EncodedStream([1, 9, 2, 9], [IGNORE] * 4, "ab", [(0, 1), (1, 1), (1, 2), (2, 2)], [Piece(0, 2, LITERAL)])
    assert [tuple(h) for h in compare(plain, padded).hunks] == [
        ("equal", 0, 1, 0, 1),
        ("segmentation", 1, 1, 1, 2),
        ("equal", 1, 2, 2, 3),
        ("segmentation", 2, 2, 3, 4),
    ]
    assert not compare(plain, padded).agrees


def test_empty_streams() -> None:
    empty = EncodedStream([], [], "", [], [])
    assert compare(empty, empty).hunks == []
    assert [h.kind for h in compare(empty, stream("<s>")).hunks] == ["extra"]
    assert [h.kind for h in compare(stream("<s>"), empty).hunks] == ["missing"]


@pytest.mark.parametrize("shared_words", [True, False], ids=["scattered agreement", "nothing in common"])
def test_long_streams_that_differ_throughout(shared_words: bool) -> None:
    """100,000 tokens a side without an anchor: split at unique words, or taken as replaced."""
    ours = [f"w{i}" if shared_words and i % 10 < 6 else f"a{i}" for i in range(100_000)]
    theirs = [f"w{i}" if shared_words and i % 10 < 6 else f"b{i}" for i in range(100_000)]
    reference, subject = stream(" ".join(ours)), stream(" ".join(theirs))
    hunks = compare(reference, subject).hunks
    if shared_words:
        assert sum(h.ref_end - h.ref_start for h in hunks if h.kind == "equal") >= 60_000
    else:
        assert [h.kind for h in hunks] == ["replaced"]
    assert (hunks[-1].ref_end, hunks[-1].sub_end) == (len(reference), len(subject))


def test_long_content_is_never_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a million equal characters between two headers cost no more than the headers."""
    import template_audit.textdiff as textdiff

    seen: list[int] = []
    exact = textdiff._exact

    def counted(ref: list[str], a: int, a_end: int, sub: list[str], b: int, b_end: int):  # type: ignore[no-untyped-def]
        seen.append((a_end - a) * (b_end - b))
        return exact(ref, a, a_end, sub, b, b_end)

    monkeypatch.setattr(textdiff, "_exact", counted)
    body = "word " * 100_000
    found = compare(stream(f"[|user|]{{0:{body}}}</s>"), stream(f"<|user|>{{0:{body}}}<|im_end|>"))
    assert len(found.hunks) == 3
    assert sum(seen) <= 10


class CountedList(list):  # type: ignore[type-arg]
    """A list that counts the items of all slices taken of it."""

    copied = 0

    def __getitem__(self, key):  # type: ignore[no-untyped-def]
        if isinstance(key, slice):
            CountedList.copied += len(range(*key.indices(len(self))))
        return super().__getitem__(key)


class CountedText(str):
    """Text that counts the characters of all slices taken of it."""

    def __getitem__(self, key):  # type: ignore[no-untyped-def]
        if isinstance(key, slice):
            CountedList.copied += len(range(*key.indices(len(self))))
        return super().__getitem__(key)


def work(case: str, count: int) -> int:
    """Calls made, and items of the streams copied, by one comparison."""
    calls = 0

    def counted(frame: object, event: str, arg: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    def watched(one: EncodedStream) -> EncodedStream:
        return EncodedStream(
            CountedList(one.input_ids),
            one.labels,
            CountedText(one.text),
            CountedList(one.spans),
            one.pieces,
        )

    reference, subject = (watched(one) for one in GENERATED[case](count))
    CountedList.copied = 0
    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        compare(reference, subject)
    finally:
        sys.setprofile(before)
    return calls + CountedList.copied


@pytest.mark.parametrize("case", GENERATED)
def test_work_grows_with_the_length_of_the_streams(case: str) -> None:
    """Four times the tokens, about four times the work: calls made and items copied are counted, not seconds."""
    small, large = work(case, 6_000), work(case, 24_000)
    assert large < 6 * small, (small, large)


@pytest.mark.parametrize(
    ("case", "least", "most"),
    [
        ("one_percent", 0.985, 1.0),
        ("one_percent_edits", 0.98, 1.0),
        ("few_words", 0.98, 1.0),
        ("nothing_in_common", 0.0, 0.0),
        ("one_token_again_and_again", 0.999, 1.0),
        ("a_period_shifted", 0.97, 1.0),
        ("tiny_pieces", 0.99, 1.0),
    ],
)
def test_how_much_of_long_streams_is_found_equal(case: str, least: float, most: float) -> None:
    """1 % of the tokens of most cases were changed by hand; the rest must be found."""
    reference, subject = GENERATED[case](40_000)
    hunks = compare(reference, subject).hunks
    equal = sum(h.ref_end - h.ref_start for h in hunks if h.kind == "equal") / len(reference)
    assert least <= equal <= most
    if case == "nothing_in_common":
        assert [h.kind for h in hunks] == ["replaced"]


TOKENS = ["a", "b", "ab", " ", "\n", "\n\n", "<|im_end|>", "<s>", "user", "한", "é", ""]
FIELDS = [LITERAL, Origin(0, "content"), Origin(1, "content"), Origin(1, "reasoning"), Origin(None, "tools")]


@st.composite
def streams(draw: st.DrawFn) -> EncodedStream:
    """Tokens and pieces without any order to them, the same text as one id or another."""
    tokens = draw(st.lists(st.sampled_from(TOKENS), max_size=25))
    ids = [TOKENS.index(t) + 100 * draw(st.integers(0, 1)) for t in tokens]
    labels = [i if draw(st.booleans()) else IGNORE for i in ids]
    spans, at = [], 0
    for token in tokens:
        spans.append((at, at + len(token)))
        at += len(token)
    cuts = sorted({0, at, *draw(st.lists(st.integers(0, at), max_size=4))})
    pieces = [Piece(a, b, draw(st.sampled_from(FIELDS))) for a, b in pairwise(cuts)]
    return EncodedStream(ids, labels, "".join(tokens), spans, pieces)


def hunk_texts(side: EncodedStream, start: int, end: int) -> str:
    return "".join(side.token_text(i) for i in range(start, end))


@given(streams(), streams())
@settings(max_examples=400, deadline=None)
def test_whatever_the_streams(reference: EncodedStream, subject: EncodedStream) -> None:
    hunks = compare(reference, subject).hunks
    i = j = 0
    for hunk in hunks:
        assert (hunk.ref_start, hunk.sub_start) == (i, j)
        i, j = hunk.ref_end, hunk.sub_end
        ours, theirs = reference.input_ids[hunk.ref_start : i], subject.input_ids[hunk.sub_start : j]
        a, b = hunk_texts(reference, hunk.ref_start, i), hunk_texts(subject, hunk.sub_start, j)
        assert ours or theirs
        assert (ours == theirs) == (hunk.kind == "equal")
        assert (a == b) == (hunk.kind in ("equal", "segmentation"))
        assert hunk.kind != "missing" or not theirs
        assert hunk.kind != "extra" or not ours
        assert hunk.kind != "replaced" or (ours and theirs)
        assert hunk.kind != "whitespace" or "".join(a.split()) == "".join(b.split())
    assert (i, j) == (len(reference), len(subject))
    assert all(one.kind != two.kind or one.kind != "equal" for one, two in pairwise(hunks))


@given(streams())
@settings(deadline=None)
def test_a_stream_agrees_with_itself(one: EncodedStream) -> None:
    assert compare(one, one).agrees


@given(streams())
@settings(deadline=None)
def test_one_text_cut_in_two_ways_differs_in_segmentation_only(one: EncodedStream) -> None:
    letters = [(i, i + 1) for i in range(len(one.text))]
    other = EncodedStream([7] * len(letters), [IGNORE] * len(letters), one.text, letters, one.pieces)
    assert {h.kind for h in compare(one, other).hunks} <= {"equal", "segmentation"}
