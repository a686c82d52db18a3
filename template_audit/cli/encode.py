"""``template-audit encode``: what a trainer sees of a conversation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from template_audit.cli.inputs import Inputs, inputs, with_probes
from template_audit.cli.options import REFERENCE, SCHEMA_VERSION, format_option, output_option, output_stream
from template_audit.errors import EncodingError

if TYPE_CHECKING:
    from template_audit.conversation import Conversation
    from template_audit.frameworks.interface import Encoder
    from template_audit.stream import EncodedStream

DEFAULT_PROBE = "single"


@click.command("encode")
@click.option(
    "--encoder",
    metavar="SPEC",
    default=REFERENCE,
    show_default=True,
    help="Whose tokens to show: framework[@version][:template].",
)
@format_option
@output_option
@inputs
def COMMAND(given: Inputs, encoder: str, output_format: str, output: Path | None) -> int:
    """Show what a trainer sees: the text, and each token with its id, label and origin.

    Without --conversation it is the built-in probe `single`.
    """
    from template_audit.frameworks import get_framework, load_encoder, parse_spec

    options = given.options_for(get_framework(parse_spec(encoder).framework))
    read = given.read_conversations(default=(DEFAULT_PROBE,))
    model = given.load_model()
    conversations = with_probes(read, model) or []
    chosen = load_encoder(encoder, model, framework_source=given.framework_source, python=given.python, **options)
    results = chosen.encode_batch(conversations, keep_errors=True)
    if len(results) == 1 and isinstance(results[0], EncodingError):
        raise results[0]
    with output_stream(output) as stream:
        if output_format == "json":
            from template_audit.report.json import write_json

            objects = [_as_dict(chosen, c, result) for c, result in zip(conversations, results, strict=True)]
            write_json(objects[0] if len(objects) == 1 else objects, stream)
        else:
            from template_audit.report.interface import ReportOptions
            from template_audit.report.terminal.listing import list_stream
            from template_audit.report.terminal.screen import Screen

            screen = Screen(stream, ReportOptions(colour=False if output else None))
            for conversation, result in zip(conversations, results, strict=True):
                list_stream(screen, chosen, conversation, result)
    return 2 if any(isinstance(result, EncodingError) for result in results) else 0


def _as_dict(encoder: Encoder, conversation: Conversation, result: EncodedStream | EncodingError) -> dict[str, Any]:
    head: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "conversation": conversation.id,
        "model": {"id": encoder.model.id, "revision": encoder.model.revision},
        "encoder": {"spec": encoder.spec, "options": dict(encoder.options)},
    }
    if isinstance(result, EncodingError):
        return {**head, "error": {"kind": result.kind, "message": str(result)}}
    return {
        **head,
        "input_ids": result.input_ids,
        "labels": result.labels,
        "text": result.text,
        "tokens": [result.token_text(i) for i in range(len(result))],
        "origins": [origin._asdict() for origin in result.origins],
        "notes": [*encoder.notes, *result.notes],
    }
