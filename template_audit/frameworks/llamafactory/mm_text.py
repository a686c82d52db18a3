"""What the multimodal plugins do to rows without images, videos and audio.

Source: LLaMA-Factory 0.9.0 to 0.9.5, data/mm_plugin.py (``process_messages`` of each plugin). A processor is
taken for granted: without one the framework stops at the first row of a template that has a plugin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from template_audit.errors import EncodingError
from template_audit.frameworks.llamafactory.behaviours import Behaviours
from template_audit.frameworks.llamafactory.registry import MMPlugin

_MEDIA = (("images", "<image>"), ("videos", "<video>"), ("audios", "<audio>"))
_EVERY_KIND = ("images", "videos", "audios")
_REPLACED_BY = {  # up to 0.9.2 a plugin counts only what it replaces: images, but for these plugins
    "qwen2_vl": ("images", "videos"),
    "qwen2_audio": ("audios",),
    "minicpm_v": _EVERY_KIND,
    "llava_next_video": (),  # nothing, in a row without media
    "video_llava": (),
}

MEDIA_MARKERS = ("<image>", "<video>", "<audio>", "{{image}}", "{{video}}", "{{audio}}")
"""A text without any of these is left alone by every plugin."""

# Gemma3Processor.full_image_sequence of transformers: what stands for one image of 256 patches.
_GEMMA3_IMAGE = "\n\n<start_of_image>" + "<image_soft_token>" * 256 + "<end_of_image>\n\n"


def process_texts(plugin: MMPlugin | None, contents: Sequence[Any], behaviours: Behaviours) -> list[Any]:
    """The contents of all messages, as the plugin leaves them.

    Raises ValueError for a media placeholder such as ``<image>``: there is no medium for it.
    Placeholders that the plugin uses itself, such as ``{{image}}``, are replaced in any text. Raises
    EncodingError where what is written hangs on the model's image size, which is not known here.
    """
    if plugin is None or plugin.name == "base":
        return list(contents)
    by_plugin = behaviours.media_placeholders_checked == "plugin"
    counted = _REPLACED_BY.get(plugin.name, ("images",)) if by_plugin else _EVERY_KIND
    for kind, placeholder in _MEDIA:
        if kind in counted and any(content.count(placeholder) for content in contents):
            raise ValueError(f"The number of {kind} does not match the number of {placeholder} tokens in the messages.")
    if plugin.name == "llava" and behaviours.llava_image_text_repeated and any("{{image}}" in c for c in contents):
        raise EncodingError(
            "The text {{image}} becomes as many tokens as the model's images have patches; not encoded."
        )
    out = list(contents)
    for placeholder, token in _own_placeholders(plugin, by_plugin).items():
        out = [content.replace(placeholder, token) if placeholder in content else content for content in out]
    return out


def _own_placeholders(plugin: MMPlugin, by_plugin: bool) -> Mapping[str, str]:
    image, video = plugin.image_token or "", plugin.video_token or ""
    if plugin.name in ("llava", "llava_next", "lfm2_vl"):
        return {"{{image}}": image}
    if plugin.name in ("llava_next_video", "video_llava"):
        return {} if by_plugin else {"{{image}}": image, "{{video}}": video}
    if plugin.name == "paligemma" and by_plugin:
        return {"{{image}}": ""}
    if plugin.name in ("minicpm_v", "minicpm_v_4_6"):
        return {"{{image}}": "(<image>./</image>)", "{{audio}}": "(<audio>./</audio>)"}
    if plugin.name == "gemma3":
        return {"{{image}}": _GEMMA3_IMAGE}
    return {}
