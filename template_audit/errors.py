"""Errors that reach a user: one sentence each, saying what, where and what to do."""

from __future__ import annotations


class TemplateAuditError(Exception):
    """Anything that makes an audit impossible; the command line prints it and exits with 2."""


class UsageError(TemplateAuditError):
    """The request itself is wrong: an unknown option, template, file or format."""


class ModelError(TemplateAuditError):
    """A model could not be loaded: not found, gated, no network, broken files."""


class DataError(TemplateAuditError):
    """A conversation or data set file could not be read."""


NOT_EVALUATED = "not-evaluated"


class EncodingError(TemplateAuditError):
    """One conversation could not be encoded. `kind` names the rule that reports it.

    Kinds in use: ``role-unsupported`` (the template raised), ``template-missing``,
    ``template-broken`` (it does not compile), ``template-timeout``, ``template-too-large``, ``unsafe-template-access``,
    ``example-dropped`` (the framework skips such a row) and ``encoding-failed`` (the framework
    raises on it, or the tokenizer does). `NOT_EVALUATED` is no refusal of theirs but a limit of this
    tool: nothing is known of such a conversation.
    """

    def __init__(self, message: str, kind: str = "encoding-failed") -> None:
        super().__init__(message)
        self.kind = kind
