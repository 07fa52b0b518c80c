"""What a list of a picture says, and which classes a text names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from eval.asking.language import listed, plural, with_article
from eval.photos.names import SYNONYMS

NOTHING = "Nothing that I know."


def content_list(contents: Mapping[str, int]) -> str:
    """The answer to "What is in the picture?": ``"A dog and people."``, in the order given."""
    if not contents:
        return NOTHING
    text = listed([with_article(name) if count == 1 else plural(name) for name, count in contents.items()])
    return text[0].upper() + text[1:] + "."


class Namer:
    """Finds the classes that a text names, by their names, plurals, synonyms and `more` words of a class."""

    def __init__(self, names: Iterable[str], more: Mapping[str, tuple[str, ...]] | None = None) -> None:
        self._class_of: dict[str, str] = {}
        for name in names:
            for word in (name, *SYNONYMS.get(name, ()), *(more or {}).get(name, ())):
                self._class_of[word] = self._class_of[plural(word)] = name
        # The longest first: a "dining table" is not also a "table", a "hot dog" no "dog".
        words = sorted(self._class_of, key=lambda word: (-len(word), word))
        self._pattern = re.compile(rf"\b({'|'.join(map(re.escape, words))})\b")

    def named(self, text: str) -> set[str]:
        """The classes that `text` names."""
        return {self._class_of[word] for word in self._pattern.findall(text.lower())}
