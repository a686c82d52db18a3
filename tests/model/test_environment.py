"""What templates do to text: the result is that of plain Jinja, and the text stays traced.

Every template here is rendered by transformers as well.
"""

from __future__ import annotations

import pytest

from template_audit.conversation import Conversation
from template_audit.model import Model
from template_audit.stream import LITERAL
from tests.rendering import load, rendered_alike

KEEPING = {
    "plus": "{{ '<' + content + '>' + content }}",
    "tilde": "{{ '<' ~ content ~ 1 ~ none }}",
    "slices": "{{ content[1:] }}{{ content[:-1] }}{{ content[0] }}{{ content[::2] }}{{ content[::-1] }}",
    "strip": "{{ content.strip() }}|{{ content.lstrip('\\n') }}|{{ content.rstrip() }}|{{ content|trim }}",
    "split": "{{ content.split('e')[-1] }}{{ content.split()[0] }}{{ content.rsplit('l', 1)|join('-') }}",
    "lines": "{% for line in content.splitlines() %}{{ line }}/{% endfor %}",
    "partition": "{{ content.partition('l')[2] }}{{ content.rpartition('l')|join }}",
    "replace": "{{ content.replace('l', 'L') }}{{ content|replace('l', '', 1) }}{{ '[x]'.replace('x', content) }}",
    "replace filter": "{{ '[x]'|replace('x', content) }}",
    "join": "{{ [content, 'b', content]|join(', ') }}{{ ', '.join([content, 'b']) }}",
    "join generator": "{{ messages|map(attribute='content')|join('+') }}{{ '+'.join(messages|map(attribute='role')) }}",
    "join attribute": "{{ messages|join(', ', attribute='content') }}{{ messages|join(', ', 'role') }}",
    "prefix": "{{ content.removeprefix(' ').removesuffix(' ') }}",
    "percent": "{{ '<%s>' % content }}{{ '%s=%d' % (content, 1) }}{{ content % () }}{{ '%(a)s' % {'a': content} }}",
    "format": "{{ '<{}>'.format(content) }}{{ '{a}{0}'.format(1, a=content) }}{{ '{x}'.format_map({'x': content}) }}",
    "format filter": "{{ '<%s>'|format(content) }}{{ '%(a)s'|format(a=content) }}",
    "format of content": "{{ ('{}' ~ content).format(1) }}",
    "times": "{{ content * 2 }}{{ 2 * content }}{{ 'ab' * 2 }}",
    "center": "{{ content|center(20) }}{{ content.ljust(9, '.') }}{{ content.rjust(9) }}",
    "iteration": "{% for char in content %}{{ char }}.{% endfor %}{{ content|list|join('_') }}",
    "reverse": "{{ content|reverse }}{{ content|first }}{{ content|last }}{{ content|batch(2)|map('join')|join('|') }}",
    "string": "{{ content|string }}{{ content|safe }}{{ content|e }}{{ content|escape ~ 'x' }}",
    "default": "{{ content|default('x') }}{{ nothing|default(content) }}",
    "indent": "{{ content|indent }}{{ content|indent(2, true, true) }}{{ content|indent('> ', first=true) }}",
    "truncate": "{{ content|truncate(4, true, '…', 0) }}{{ content|truncate(7, false, '', 0) }}",
    "set": "{% set x = content %}{% set y %}<{{ x }}>{% endset %}{{ y ~ x }}",
    "set with filter": "{% set y | trim %} {{ content }} {% endset %}{{ y }}",
    "macro": "{% macro m(a, b='-') %}<{{ a }}{{ b }}{{ varargs }}{{ kwargs }}>{% endmacro %}"
    "{{ m(content) }}{{ m(a=content) }}",
    "call": "{% macro m() %}<{{ caller(1) }}>{% endmacro %}{% call(n) m() %}{{ content }}{{ n }}{% endcall %}",
    "filter block": "{% filter trim %} {{ content }} {% endfilter %}{% filter replace('h', 'H') %}"
    "{{ content }}{% endfilter %}",
    "namespace": "{% set ns = namespace(x='') %}{% for m in messages %}{% set ns.x = ns.x + m.content %}"
    "{% endfor %}{{ ns.x }}",
    "namespace list": "{% set ns = namespace(x=[]) %}{% for m in messages %}"
    "{% set ns.x = ns.x + [m.content] %}{% endfor %}"
    "{{ ns.x|join('\\n') }}",
    "with": "{% with c = content %}{{ c }}{% endwith %}",
    "loop": "{% for m in messages %}{{ loop.index }}{{ loop.cycle('a', 'b') }}{{ m['content'] }}"
    "{{ loop.previtem.content if not loop.first }}{% endfor %}",
    "loop controls": "{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}"
    "{{ m.content }}{% break %}"
    "{% endfor %}",
    "recursive loop": "{% for m in messages recursive %}{{ m.content }}{% endfor %}",
    "items": "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}"
    "{% for k in messages[0] %}{{ k }}{% endfor %}",
    "dictsort": "{% for k, v in messages[0]|dictsort %}{{ k }}={{ v }};{% endfor %}{{ messages[0]|items|list|length }}",
    "dict": "{{ dict(a=content).a }}{{ {'b': content}['b'] }}{{ {content: 1}.keys()|join }}"
    "{{ dict(messages[0]).content }}",
    "selection": "{{ (messages|selectattr('role', 'equalto', 'user')|first).content }}"
    "{{ messages|rejectattr('role', 'in', ['user'])|map(attribute='content')|list|join }}",
    "grouping": "{% for role, group in messages|groupby('role') %}{{ role }}:"
    "{{ group|map(attribute='content')|join }}{% endfor %}",
    "sorting": "{{ messages|map(attribute='content')|sort|join }}{{ messages|map(attribute='role')|unique|join }}"
    "{{ messages|map(attribute='content')|max }}",
    "conditional": "{{ content if content is string else '' }}{{ (content or 'x') }}{{ ('x' and content) }}",
    "tests": "{{ 'll' in content }}{{ content == ' hello\\n ' }}{{ content is mapping }}"
    "{{ content|length }}{{ content < 'z' }}",
    "generation": "{% generation %}{{ content }}{% endgeneration %}",
    "tojson": "{{ content|tojson }}{{ {'a': content, 'b': [1, content]}|tojson }}{{ messages|tojson(indent=2) }}",
    "tojson string": "{{ (messages[0]|tojson|string).replace('\"', '') }}",
    "escaping": "{{ ('<' ~ content ~ '&')|e }}{{ '<b>'|safe + content }}{{ content|safe + '<b>' }}"
    "{{ ['<']|join(content|safe) }}",
    "autoescape": "{% autoescape true %}{{ '<' ~ content }}{{ content|safe }}{% endautoescape %}{{ content }}",
    "trim blocks": "  {% if true %}\n  {{- content -}}  \n  {% endif %}\n{{ content }}\n\n",
    "raw": "{% raw %}{{ content }}{% endraw %}{{ content }}{# {{ content }} #}",
    "python repr": "{{ messages }}{{ [content] }}{{ (content, 1) }}{{ {'a': content} }}",
    "numbers": "{{ '%02d' % 5 }}{{ 7 // 2 }}{{ 2 ** 3 }}{{ -1 }}{{ content|length / 2 }}",
    "blocks": "{% block a %}{{ messages[0].content }}{% endblock %}{{ self.a() }}",
}  # fmt: skip
DERIVING = {
    "upper": "{{ content|upper }}{{ content.upper() }}{{ content|lower }}{{ content|title }}{{ content|capitalize }}",
    "wordwrap": "{{ content|wordwrap(3) }}",
    "urlencode": "{{ content|urlencode }}",
    "striptags": "{{ content|striptags }}{{ content|forceescape }}{{ content|urlize }}",
    "pprint": "{{ content|pprint }}{{ [content]|pprint }}",
    "repr": "{{ '%r' % content }}{{ '{!r}'.format(content) }}{{ '{:>20}'.format(content) }}{{ '%10s' % content }}",
}
WRAPPED = "{% set content = messages[0]['content'] %}"


ANSWER = {"role": "assistant", "content": "bye"}


@pytest.fixture(scope="module")
def plain_model() -> Model:
    return load("chatml-plain")


@pytest.mark.parametrize("name", KEEPING)
def test_operations_that_keep_the_origin(plain_model: Model, name: str) -> None:
    conversation = Conversation.from_openai([{"role": "user", "content": " hello\n "}, ANSWER])
    rendered = rendered_alike(plain_model, WRAPPED + KEEPING[name], conversation)
    for start, end, origin in rendered.pieces:
        if origin.derived or origin.field == "other":
            continue
        for char in rendered.text[start:end].strip():
            source = {0: " hello\n user", 1: "byeassistant"}.get(origin.message)  # type: ignore[arg-type]
            assert source is None or char in source
            assert origin == LITERAL or source is not None


@pytest.mark.parametrize(
    "name", ["plus", "split", "join", "percent", "macro", "call", "namespace", "indent", "iteration", "set"]
)
def test_content_is_never_taken_for_a_literal(plain_model: Model, name: str) -> None:
    conversation = Conversation.from_openai(
        [{"role": "user", "content": "αβγ\nδ εζη"}, {"role": "assistant", "content": "χ"}]
    )
    rendered = rendered_alike(plain_model, WRAPPED + KEEPING[name], conversation)
    for start, end, origin in rendered.pieces:
        greek = [char for char in rendered.text[start:end] if "α" <= char <= "ω"]
        assert not greek or origin.message == (1 if greek == ["χ"] else 0)


@pytest.mark.parametrize("name", DERIVING)
def test_operations_that_lose_the_origin_mark_it_derived(plain_model: Model, name: str) -> None:
    conversation = Conversation.from_openai([{"role": "user", "content": "hello <b>World</b>"}, ANSWER])
    rendered = rendered_alike(plain_model, WRAPPED + DERIVING[name], conversation)
    assert {piece.origin[:2] for piece in rendered.pieces} == {(0, "content")}
    assert any(piece.origin.derived for piece in rendered.pieces)
