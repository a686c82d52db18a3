"""Traced text equals plain text in every operation, and knows where each character came from.

The oracle for Origins: in these tests a traced character's Origin is a function of the character, so
a copied character can be checked wherever it went. Plain text uses other characters.
"""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from template_audit.stream import LITERAL, Origin
from template_audit.trace import Traced, derive, is_traced, join, literal, pieces_of, traced
from template_audit.trace_data import text_of, to_json, trace
from template_audit.trace_format import percent

sparingly = settings(max_examples=40, deadline=None)  # a busy machine is no failure
TRACED = "ab \n\t\rß.İ'"
PLAIN = "XY-*éǆ"


def origin_of(char: str) -> Origin:
    return Origin(ord(char), "content") if char in TRACED else LITERAL


def make(text: str) -> Traced:
    """`text` with every character of the Origin that the oracle gives it."""
    return join([Traced(char, origin_of(char)) for char in text])


def origins(text: str) -> list[Origin]:
    return [piece.origin for piece in pieces_of(text) for _ in range(piece.start, piece.end)]


def check(result: Any, expected: Any, *, copied: bool = True) -> None:
    """`result` has the text of `expected` and Origins that tile it; those of the oracle, when `copied`."""
    if isinstance(expected, (list, tuple)):
        assert type(result) is type(expected)
        assert len(result) == len(expected)
        for one, other in zip(result, expected, strict=True):
            check(one, other, copied=copied)
        return
    assert result == expected
    if not isinstance(expected, str):
        return
    assert isinstance(result, Traced)
    assert str(result) is result
    pieces = pieces_of(result)
    assert [piece.start for piece in pieces] == [0, *(piece.end for piece in pieces)][: len(pieces)]
    assert (pieces[-1].end if pieces else 0) == len(result)
    assert all(one.origin != other.origin for one, other in pairwise(pieces))
    if copied:
        assert origins(result) == [origin_of(char) for char in expected]


texts = st.text(TRACED + PLAIN, max_size=12)
short = st.text(TRACED + PLAIN, min_size=0, max_size=2)
plain = st.text(PLAIN, max_size=3)
counts = st.integers(-2, 4)
places = st.none() | st.integers(-14, 14)
widths = st.integers(-1, 20)

COPYING: dict[str, tuple[Any, ...]] = {
    "strip": (st.none() | short,),
    "lstrip": (st.none() | short,),
    "rstrip": (st.none() | short,),
    "split": (st.none() | short, counts),
    "rsplit": (st.none() | short, counts),
    "splitlines": (st.booleans(),),
    "partition": (short,),
    "rpartition": (short,),
    "removeprefix": (short,),
    "removesuffix": (short,),
    "ljust": (widths, st.sampled_from("*-")),
    "rjust": (widths, st.sampled_from("*-")),
    "center": (widths, st.sampled_from("*-")),
    "__mul__": (counts,),
    "__rmul__": (counts,),
}
CHANGING = ("upper", "lower", "title", "capitalize", "swapcase", "casefold", "expandtabs")


def same_outcome(do: Callable[[str], Any], text: str, *, copied: bool) -> None:
    try:
        expected = do(text)
    except Exception as error:
        with pytest.raises(type(error)):
            do(make(text))
        return
    check(do(make(text)), expected, copied=copied)


@pytest.mark.parametrize("name", COPYING)
@sparingly
@given(data=st.data())
def test_copying_methods_keep_every_origin(name: str, data: st.DataObject) -> None:
    args = [data.draw(strategy) for strategy in COPYING[name]]
    same_outcome(lambda text: getattr(text, name)(*args), data.draw(texts), copied=True)


@pytest.mark.parametrize("name", CHANGING)
@sparingly
@given(text=texts)
def test_changing_methods_mark_what_they_changed_as_derived(name: str, text: str) -> None:
    same_outcome(lambda text: getattr(text, name)(), text, copied=False)
    result = getattr(make(text), name)()
    for origin in origins(result):
        assert origin == LITERAL or origin.field in ("content", "other")
    if result != text and not any(char in PLAIN for char in text):
        assert any(origin.derived for origin in origins(result))


@sparingly
@given(text=texts, width=widths)
def test_zfill(text: str, width: int) -> None:
    same_outcome(lambda text: text.zfill(width), text, copied=False)


@sparingly
@given(text=texts, table=st.dictionaries(st.sampled_from(TRACED), st.none() | plain))
def test_translate(text: str, table: dict[str, str | None]) -> None:
    same_outcome(lambda text: text.translate(str.maketrans(table)), text, copied=False)


@sparingly
@given(text=texts, start=places, stop=places, step=st.none() | st.integers(-3, 3))
def test_slices(text: str, start: int | None, stop: int | None, step: int | None) -> None:
    same_outcome(lambda text: text[start:stop:step], text, copied=True)


@sparingly
@given(text=texts, index=st.integers(-14, 14))
def test_index(text: str, index: int) -> None:
    same_outcome(lambda text: text[index], text, copied=True)


@sparingly
@given(text=texts)
def test_iteration(text: str) -> None:
    check(list(make(text)), list(text))
    check(list(reversed(make(text))), list(reversed(text)))


@sparingly
@given(left=texts, right=texts, other=plain)
def test_concatenation(left: str, right: str, other: str) -> None:
    check(make(left) + make(right), left + right)
    check(make(left) + other, left + other)
    check(other + make(right), other + right)
    with pytest.raises(TypeError):
        make(left) + 1  # type: ignore[operator]
    with pytest.raises(TypeError):
        1 + make(left)  # type: ignore[operator]


@sparingly
@given(text=texts, old=short, new=short, count=counts)
def test_replace_with_traced_text(text: str, old: str, new: str, count: int) -> None:
    check(make(text).replace(old, make(new), count), text.replace(old, new, count))


@sparingly
@given(slot=st.text(PLAIN, max_size=4), text=texts, rest=st.text(PLAIN, max_size=4))
def test_replace_fills_a_slot_once(slot: str, text: str, rest: str) -> None:
    template = f"{slot}{{{{content}}}}{rest}{{{{content}}}}"
    expected = template.replace("{{content}}", text, 1)
    result = literal(template).replace("{{content}}", make(text), 1)
    assert result == expected
    assert origins(result) == [
        *[LITERAL] * len(slot), *map(origin_of, text), *[LITERAL] * (len(rest) + len("{{content}}"))
    ]  # fmt: skip


@sparingly
@given(parts=st.lists(texts, max_size=4), separator=short)
def test_join(parts: list[str], separator: str) -> None:
    check(make(separator).join(map(make, parts)), separator.join(parts))
    check(join(map(make, parts), make(separator)), separator.join(parts))


FORMATS = ["%s", "%s%%", "X%sY%s", "%5s|%-4s", "%.1s", "%r", "%d", "%(a)s-%(b)s", "%", "%s %s %s", "%q", "%*s", ""]


@pytest.mark.parametrize("form", FORMATS)
@sparingly
@given(first=texts, second=texts)
def test_percent(form: str, first: str, second: str) -> None:
    for values, plain_values in [
        (make(first), first),
        ((make(first), make(second)), (first, second)),
        ((3, make(first)), (3, first)),
        ({"a": make(first), "b": make(second)}, {"a": first, "b": second}),
    ]:
        try:
            expected = form % plain_values
        except Exception as error:
            with pytest.raises(type(error)):
                percent(form, values)
            with pytest.raises(type(error)):
                literal(form) % values
            continue
        copied = form in ("%s", "%s%%", "X%sY%s", "%(a)s-%(b)s")
        for result in (percent(form, values), literal(form) % values):
            check(result, expected, copied=False)
            if copied and not isinstance(plain_values, dict | tuple):
                assert [o for o in origins(result) if o != LITERAL] == [origin_of(c) for c in first if c in TRACED]
    check("%s" % make(first), first)  # noqa: UP031 - what is tested


@pytest.mark.parametrize(
    "form", ["{}", "{}{{}}{}", "{0}-{0}", "{a}", "{:>9}", "{:{}}", "{!r}", "{0.x}", "{", "{5}", "{0[0]}"]
)
@sparingly
@given(first=texts, second=texts)
def test_format(form: str, first: str, second: str) -> None:
    def outcome(do: Callable[[], Any]) -> Any:
        try:
            return do()
        except Exception as error:
            return type(error)

    expected = outcome(lambda: form.format(first, second, a=second))
    result = outcome(lambda: literal(form).format(make(first), make(second), a=make(second)))
    assert result == expected
    if form in ("{}", "{a}"):
        check(result, expected)
    assert outcome(lambda: literal("{a}").format_map({"a": make(first)})) == first


def test_derive_names_one_field_one_message_or_none() -> None:
    a, b, c = (traced("x", Origin(*o)) for o in [(0, "content"), (0, "reasoning"), (1, "content")])
    assert pieces_of(derive("X", a))[0].origin == Origin(0, "content", True)
    assert pieces_of(derive("X", a, [b]))[0].origin == Origin(0, "other", True)
    assert pieces_of(derive("X", a, {"k": c}))[0].origin == Origin(None, "other", True)
    assert pieces_of(derive("X", "plain"))[0].origin == LITERAL


def test_traced_text_behaves_as_text() -> None:
    text = traced("key", Origin(1, "content"))
    assert {text: 1}["key"] == 1
    assert hash(text) == hash("key")
    assert text in ("key",)
    assert isinstance(text, str)
    assert is_traced({"a": [text]})
    assert not is_traced(["key", 3, None])
    for clone in (copy.copy(text), copy.deepcopy(text), pickle.loads(pickle.dumps(text))):
        assert pieces_of(clone) == pieces_of(text)


def test_templates_see_no_new_attribute() -> None:
    assert {name for name in set(dir(Traced)) - set(dir(str)) if not name.startswith("_")} == set()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
styles = st.fixed_dictionaries(
    {},
    optional={
        "ensure_ascii": st.booleans(),
        "indent": st.none() | st.integers(0, 3) | st.just("\t"),
        "separators": st.just((",", ":")),
        "sort_keys": st.booleans(),
    },
)
CALL = Origin(2, "tool_call")


@sparingly
@given(value=json_values, style=styles)
def test_to_json_is_json_dumps(value: Any, style: dict[str, Any]) -> None:
    expected = json.dumps(value, **{"ensure_ascii": False, **style})
    inside, around = to_json(trace(value, CALL), **style), to_json({"name": trace(value, CALL)}, **style)
    assert inside == expected
    assert around == json.dumps({"name": value}, **{"ensure_ascii": False, **style})
    if is_traced(trace(value, CALL)):
        check(inside, expected, copied=False)
        assert {origin[:2] for origin in origins(inside)} == {CALL[:2]}
        assert pieces_of(around)[0].origin == LITERAL  # the template's own brace


def test_to_json_copies_what_it_does_not_escape() -> None:
    text = to_json({"name": traced('a"b', Origin(1, "tool_call")), "arguments": trace({"k": "x\ny", "n": 3}, CALL)})
    assert [(text[a:b], o.message, o.derived) for a, b, o in pieces_of(text)] == [
        ('{"name": ', None, False),
        ('"', 1, True),
        ("a", 1, False),
        ('\\"', 1, True),
        ("b", 1, False),
        ('"', 1, True),
        (', "arguments": ', None, False),
        ('{"', 2, True),
        ("k", 2, False),
        ('": "', 2, True),
        ("x", 2, False),
        ("\\n", 2, True),
        ("y", 2, False),
        ('", "', 2, True),
        ("n", 2, False),
        ('": 3}', 2, True),
        ("}", None, False),
    ]


@sparingly
@given(value=json_values)
def test_text_of_containers_is_str(value: Any) -> None:
    made = trace(value, CALL)
    assert text_of(made) == str(value)
    assert text_of([made, {"k": made}]) == str([value, {"k": value}])
    if isinstance(value, (list, dict)) or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        assert pieces_of(text_of(made))[0].origin == CALL._replace(derived=True)


def test_numbers_print_as_derived_and_calculate_as_numbers() -> None:
    assert trace(3, CALL) + 1 == 4
    assert pieces_of(str(trace(3, CALL))) == [(0, 1, CALL._replace(derived=True))]
    assert trace(True, CALL) is True
    assert trace(None, CALL) is None
