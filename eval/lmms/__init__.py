"""The model `tofc` of lmms-eval: its benchmarks on any checkpoint, with the bytes of each request."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> ModelManifest:
    """What the entry point `tofc` of the group `lmms_eval.models` names; loads no model and no torch."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="tofc",
        simple_class_path="eval.lmms.model.TofcSimple",
        chat_class_path="eval.lmms.model.TofcChat",
    )
