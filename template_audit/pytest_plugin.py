"""The pytest plugin: a marker, and the configuration of the root directory for `assert_template_agrees`.

::

    @pytest.mark.template_audit("org/name", "llamafactory:llama3", cutoff_len=1024)
    def test_the_template_fits() -> None: ...

The marked test fails, before its own body runs, where `assert_template_agrees` would; the arguments are the
same. Loaded by every pytest run in the environment, so it imports nothing heavy.
"""

from __future__ import annotations

import inspect

import pytest

from template_audit.errors import TemplateAuditError
from template_audit.testing import ROOTS, assert_template_agrees

MARKER = "template_audit"


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and the root directory, where the configuration is looked for."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(model, encoder, *, conversations=None, fail_on=None, **options): "
        "fail unless the encoder feeds the model what its chat template shows; see template_audit.testing.",
    )
    ROOTS.append(config.rootpath)


def pytest_unconfigure() -> None:
    """Forget the root directory."""
    if ROOTS:
        ROOTS.pop()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Make the audits of a marked test, outermost marker first, before its body runs."""
    for marker in reversed(list(item.iter_markers(MARKER))):
        try:
            inspect.signature(assert_template_agrees).bind(*marker.args, **marker.kwargs)
        except TypeError as error:
            pytest.fail(f"@pytest.mark.{MARKER}(model, encoder, …): {error}.", pytrace=False)
        try:
            assert_template_agrees(*marker.args, **marker.kwargs)
        except (AssertionError, TemplateAuditError) as error:
            pytest.fail(str(error), pytrace=False)
