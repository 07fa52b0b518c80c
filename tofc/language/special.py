"""Ids of a conversation in which special tokens come from the chat template alone.

A tokenizer takes `<|im_end|>` within a question for the end of a turn, and whoever asks could then speak for
the system. What people write is read as plain text instead.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from tofc.errors import CheckpointError, UserError

_MARK = "\uffff"  # a noncharacter, put between characters so that no special token is found across it
_STAND_IN = "x"  # for any text, where only the template's own tokens count

Turns = Sequence[Mapping[str, Any]]
_Shape = tuple[tuple[str, str | tuple[tuple[str, str], ...]], ...]  # roles, with a stand-in for each text


def prompt_ids(tokenizer: Any, template: str, turns: Turns) -> list[int]:
    """Ids of a conversation in the messages of chat templates, up to the next answer.

    They are the tokenizer's of the whole rendered text, unless a special token is found that the template
    did not write. Raises UserError where that cannot be read as plain text either.
    """
    expected = _written_by(tokenizer, template, _shape(turns))
    ids: list[int] = tokenizer(_rendered(tokenizer, template, turns))["input_ids"]
    if _special_among(tokenizer, ids) == expected:
        return ids
    marked = [_with_texts(turn, lambda text: _MARK.join(("", *text, ""))) for turn in turns]
    ids = _ids_of_marked(tokenizer, _rendered(tokenizer, template, marked))
    if _special_among(tokenizer, ids) != expected:
        raise UserError("the question holds a special token of the model; leave it out")
    return ids


def _rendered(tokenizer: Any, template: str, turns: Turns) -> str:
    """What the template makes of a conversation."""
    return str(
        tokenizer.apply_chat_template(
            list(turns), chat_template=template, add_generation_prompt=True, tokenize=False
        )
    )


def _with_texts(turn: Mapping[str, Any], change: Any) -> dict[str, Any]:
    """A message with each of its texts changed."""
    content = turn["content"]
    if isinstance(content, str):
        return {**turn, "content": change(content)}
    parts = [{**part, "text": change(part["text"])} if "text" in part else part for part in content]
    return {**turn, "content": parts}


def _shape(turns: Turns) -> _Shape:
    """All that a template may see of a conversation but for what its texts say; hashable."""
    bare = [_with_texts(turn, lambda text: _STAND_IN if text.strip() else text) for turn in turns]
    contents = (turn["content"] for turn in bare)
    parts = (c if isinstance(c, str) else tuple((p["type"], p.get("text", "")) for p in c) for c in contents)
    return tuple(zip((turn["role"] for turn in bare), parts, strict=True))


@lru_cache(maxsize=256)
def _written_by(tokenizer: Any, template: str, shape: _Shape) -> list[int]:
    """The special tokens that the template itself writes into a conversation of this shape."""
    turns = [
        {"role": role, "content": parts if isinstance(parts, str) else [_part(*part) for part in parts]}
        for role, parts in shape
    ]
    return _special_among(tokenizer, tokenizer(_rendered(tokenizer, template, turns))["input_ids"])


def _part(kind: str, text: str) -> dict[str, str]:
    return {"type": kind, "text": text} if kind == "text" else {"type": kind}


def _special_among(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    special = _special_ids(tokenizer)
    return [token for token in ids if token in special]


@lru_cache(maxsize=8)
def _special_ids(tokenizer: Any) -> frozenset[int]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise CheckpointError(
            f"{type(tokenizer).__name__} does not tell special tokens from text: give the model a "
            "tokenizer.json, as the library `tokenizers` writes it"
        )
    added = backend.get_added_tokens_decoder()
    return frozenset(token for token, form in added.items() if form.special)


@lru_cache(maxsize=8)
def _plain(tokenizer: Any) -> Any:
    """The tokenizer as one of the library `tokenizers` to which special tokens are text like any other."""
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.encode_special_tokens = True
    return backend


def _ids_of_marked(tokenizer: Any, marked: str) -> list[int]:
    """Ids of a rendered text without its marks; of special tokens those alone that have none inside."""
    special, plain = _special_ids(tokenizer), _plain(tokenizer)
    found = tokenizer.backend_tokenizer.encode(marked, add_special_tokens=False)
    ids: list[int] = []
    begin = 0
    for token, (start, end) in zip(found.ids, found.offsets, strict=True):
        if token in special:
            text = marked[begin:start].replace(_MARK, "")
            ids += [*plain.encode(text, add_special_tokens=False).ids, token]
            begin = end
    return ids + plain.encode(marked[begin:].replace(_MARK, ""), add_special_tokens=False).ids
