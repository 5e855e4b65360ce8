"""Who takes pictures, and what is one."""

from __future__ import annotations

from typing import Any

import pytest
from heartcode.api import media
from heartcode.errors import ApiError
from heartcode.routing.backend import Backend
from heartcode.upstream.identity import Identity

TEXT = {"vision": False, "audio": False, "video": False}


def backend(modalities: dict[str, bool] | None) -> Backend:
    found = Backend("http://127.0.0.1:1")
    if modalities is not None:
        found.served.note(Identity(modalities=modalities), process=0)
    return found


def said(part: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "see"}, part]}]}


PICTURE = said({"type": "image_url", "image_url": {"url": "data:"}})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (PICTURE, "messages"),
        (said({"type": "image", "source": {}}), "messages"),
        (said({"type": "input_audio"}), "messages"),
        (said({"type": "video_url"}), "messages"),
        (said({"type": "tool_result", "content": [{"type": "image"}]}), "messages"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input"),
        (
            {"input": [{"type": "function_call_output", "output": [{"type": "input_image"}]}]},
            "input",
        ),
        ({"prompt": {"prompt_string": "x", "multimodal_data": ["eA=="]}}, "prompt"),
        ({"prompt": ["x", {"prompt_string": "x", "multimodal_data": ["eA=="]}]}, "prompt"),
    ],
    ids=repr,
)
def test_a_model_for_text_is_not_asked_about_anything_else(
    fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(ApiError, match="takes text, but no") as raised:
        media.taking([backend(TEXT), backend(TEXT)], fields, model="stheno")
    assert (raised.value.status, raised.value.param) == (400, param)
    assert "'stheno'" in raised.value.message


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"messages": "x", "input": "x", "prompt": [1, 2], "content": None},
        {"messages": [7, {"role": "user", "content": None}, {"content": ["image"]}]},
        said({"type": "tool_result", "content": "image"}),
        {"input": ["a", "b"], "prompt": {"prompt_string": "x"}},
        {"tools": [{"type": "image"}], "metadata": {"content": [{"type": "image"}]}},
    ],
    ids=repr,
)
def test_text_goes_to_all(fields: dict[str, Any]) -> None:
    backends = [backend(TEXT), backend(None)]
    assert media.taking(backends, fields, model="") == backends


def test_a_picture_goes_to_those_that_see_or_have_not_told() -> None:
    blind, seeing, unknown, older = map(backend, (TEXT, {**TEXT, "vision": True}, None, {}))
    assert media.taking([blind, seeing, unknown, older], PICTURE, model="m") == [
        *(seeing, unknown, older)
    ]
    with pytest.raises(ApiError, match="no sound"):
        media.taking([blind, seeing], said({"type": "input_audio"}), model="m")
