"""What `RemoteEdge(draft=...)` adds: a member of the family on the device, which drafts for the server."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofc.errors import UserError, needs_edge

if TYPE_CHECKING:
    from tofc.decoding.drafting import Watch
    from tofc.decoding.pace import Pace
    from tofc.decoding.together import Decoded
    from tofc.edge import Edge
    from tofc.packet import Packet
    from tofc.serving.client import RemoteEdge

_CHOICE = ("temperature", "top_k", "top_p", "seed")


class Drafting:
    """The member `draft` of the checkpoint `model` (a bundled name, a folder, a hub id), loaded on first use.

    `tiers` is how many have to work on an answer, None for as many as there are. Raises UserError for a
    member that is not there, MissingLibraryError without PyTorch.
    """

    def __init__(self, model: str, draft: str, tiers: int | None = None) -> None:
        with needs_edge("drafting for an edge"):
            from tofc.familial import family
        self._model, self._exit, self._tiers = model, family(model).named(draft).name, tiers
        self._pace: Pace | None = None  # what it learns of the link is of use to every answer
        self._edge: Edge | None = None
        self._loading, self._turn = threading.Lock(), threading.Lock()  # one answer is drafted at a time

    @property
    def name(self) -> str:
        """The model's on the server."""
        return Path(self._model).name

    @property
    def edge(self) -> Edge:
        """The member that drafts."""
        from tofc.edge import Edge

        with self._loading:
            if self._edge is None:
                self._edge = Edge.from_pretrained(self._model, self._exit)
            return self._edge

    def decode(
        self,
        remote: RemoteEdge,
        packet: Packet | bytes,
        question: str,
        generation: Mapping[str, Any],
        watch: Watch | None = None,
    ) -> Decoded:
        """The server's answer, drafted here; see `tofc.decoding.remote.draft_for` for what is raised."""
        from tofc.decoding import Choice, Pace
        from tofc.decoding.remote import draft_for
        from tofc.edge import MAX_NEW_TOKENS

        settings = {"max_new_tokens": MAX_NEW_TOKENS, **generation}
        most = settings.pop("max_new_tokens")
        if unknown := settings.keys() - set(_CHOICE):
            raise UserError(
                f"generation setting {min(unknown)} does not go with drafts; these do: max_new_tokens, "
                f"{', '.join(_CHOICE)}"
            )
        with self._turn:
            self._pace = self._pace or Pace(parallel=True)
            return draft_for(
                remote,
                self.edge,
                packet,
                question,
                draft=self._exit,
                tiers=self._tiers,
                choice=Choice(**settings),
                max_new_tokens=most,
                pace=self._pace,
                watch=watch,
            )
