"""``template-audit encoders``: list frameworks, versions, templates and options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from template_audit.cli.options import format_option, json_to_stdout, listing_screen
from template_audit.errors import UsageError

if TYPE_CHECKING:
    from template_audit.frameworks.interface import Framework
    from template_audit.report.terminal.screen import Screen


@click.command("encoders")
@click.argument("name", metavar="[FRAMEWORK[@VERSION]]", required=False)
@click.option("--framework-source", metavar="PATH", help="List what this copy of the framework's source has.")
@format_option
def COMMAND(name: str | None, framework_source: str | None, output_format: str) -> None:
    """List the frameworks that can be audited, with their versions, templates and options."""
    from template_audit.frameworks import frameworks, get_framework, parse_spec

    spec = parse_spec(name) if name is not None else None
    if spec is None and framework_source is not None:
        raise UsageError("`--framework-source` is of one framework; name it, as in `encoders llamafactory`.")
    chosen = list(frameworks().values()) if spec is None else [get_framework(spec.framework, framework_source)]
    version = spec.version if spec else None
    if output_format == "json":
        json_to_stdout({"encoders": [_as_dict(framework, version) for framework in chosen]})
    elif spec is None:
        _list(listing_screen(), chosen)
    else:
        _explain(listing_screen(), chosen[0], version)


def _as_dict(framework: Framework, version: str | None) -> dict[str, Any]:
    return {
        "name": framework.name,
        "title": framework.title,
        "versions": list(framework.versions()),
        "templates": list(framework.templates(version)),
        "remarks": list(_remarks(framework)),
        "options": [
            {"name": option.name, "type": option.type, "default": option.default, "help": option.help}
            for option in framework.options()
        ],
    }


def _remarks(framework: Framework) -> Sequence[str]:
    """What else a SPEC of this framework can say; most frameworks have no remarks."""
    remarks: Sequence[str] = getattr(framework, "remarks", ())
    return remarks


def _list(screen: Screen, frameworks: list[Framework]) -> None:
    for framework in frameworks:
        screen.line((framework.name, "strong"), (f"  {framework.title}", "quiet"))
        versions, templates = list(framework.versions()), list(framework.templates())
        if versions:
            screen.paragraph("  versions", ", ".join(versions), indent=13)
        if templates:
            screen.paragraph("  templates", f"{len(templates)}: {_some(screen, templates)}", indent=13)
        options = ", ".join(option.name for option in framework.options())
        screen.paragraph("  options", options or "none", indent=13)
        screen.line()
    screen.line(("`template-audit encoders FRAMEWORK` lists all templates and explains the options.", "quiet"))


def _some(screen: Screen, names: list[str], count: int = 8) -> str:
    return ", ".join(names[:count]) + (f", {screen.glyphs.dots}" if len(names) > count else "")


def _explain(screen: Screen, framework: Framework, version: str | None) -> None:
    screen.line((framework.name, "strong"), (f"  {framework.title}", "quiet"))
    versions, templates = list(framework.versions()), list(framework.templates(version))
    shown = version or (versions[0] if versions else "")
    for title, names in (("Versions", versions), (f"Templates {shown}".strip(), templates)):
        if names:
            screen.line()
            screen.line((title, "strong"), (f" ({len(names)})", "quiet"))
            screen.paragraph("  ", ", ".join(names), indent=2)
    for remark in _remarks(framework):
        screen.paragraph("  ", remark, indent=2, style="quiet")
    options = list(framework.options())
    if options:
        screen.line()
        screen.line(("Options", "strong"), (" (-o KEY=VALUE)", "quiet"))
        width = max(len(option.name) for option in options) + 4
    for option in options:
        kind = option.type.replace("?", " or null")
        about = f"{option.help} ({kind}; default {_scalar(option.default)})"
        screen.paragraph(screen.text("  ", option.name), about, indent=width)


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if value == "" else str(value)
