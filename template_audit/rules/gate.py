"""The rule of the drift gate. `template_audit.lock` makes its findings; an audit of today alone has none."""

from __future__ import annotations

from template_audit.rules.interface import rule

rule(
    "lock-drift",
    severity="error",
    group="Gate",
    scope="gate",
    what="A model, a framework's template, an option or a library gives something else than the lock file records.",
    why="What was reviewed is no longer what the trainer feeds. A tokenizer or template that changes between two runs "
    "makes a model that its own server does not speak the language of, and no error says so.",
    advice="If the change is wanted, accept it with `template-audit check --update` and commit the lock file; else go "
    "back to the locked revision, file or version.",
)(lambda _: iter(()))
