"""The model's chat template, as the v1 renderer applies it.

Source: LLaMA-Factory 0.9.6.dev0, v1/core/rendering/rendering.py (``_render_messages``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from template_audit.model.chat_template import PINNED_CLOCK, Renderer

if TYPE_CHECKING:
    from template_audit.conversation import Conversation
    from template_audit.model import Model
    from template_audit.model.worker import Job, View

CHATML = (
    "{%- for turn in messages -%}"
    "{{ '<|im_start|>' ~ turn.role ~ '\\n' ~ turn.content ~ '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
"""What stands in for the chat template of a model that has none (``_FALLBACK_CHATML_JINJA``)."""


class V1Renderer(Renderer):
    """Renders samples of `samples.sample_of`.

    Thinking is enabled exactly when the last message has reasoning. `custom` takes the place of the
    model's templates.
    """

    def __init__(self, model: Model, *, custom: str | None = None, clock: str = PINNED_CLOCK) -> None:
        super().__init__(model, clock=clock)
        self._custom = custom or (None if model.chat_templates else CHATML)

    def template(self, has_tools: bool) -> str:
        """The template in use. Raises EncodingError (``template-missing``) when the model has no default one."""
        return self._custom or super().template(has_tools)

    def _job(self, conversation: Conversation, views: list[View]) -> Job:
        job = super()._job(conversation, views)
        job["variables"]["enable_thinking"] = bool(conversation.messages[-1].reasoning)
        if conversation.tools is not None and not conversation.tools:
            job["tools"] = []
            job["template"] = self.template(has_tools=True)
        return job

    def _message(self, message: dict[str, Any]) -> dict[str, Any]:
        # The renderer puts reasoning last, which templates that print a whole message show.
        last = {"reasoning_content": message["reasoning_content"]} if "reasoning_content" in message else {}
        return super()._message({key: value for key, value in message.items() if key not in last} | last)
