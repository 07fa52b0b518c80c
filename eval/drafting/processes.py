"""Tiers as processes on cores of their own, with shaped links between them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from eval.latency.link import Link
from eval.serving.process import running_server
from eval.serving.shaped import ShapedProxy


@contextmanager
def tiers(
    model: str, cores: tuple[int, ...], middle: Sequence[str], link: Link | None
) -> Iterator[tuple[dict[int, str], list[ShapedProxy]]]:
    """Addresses by the number of tiers, and the proxies in front of them, all of `link`; none for None.

    With two the full model verifies; there are three as well where `middle` names a member that verifies in
    between. UserError where a tier does not come up.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        proxies: list[ShapedProxy] = []

        def reached(core: int, *arguments: str) -> str:
            alone = ("--model", model, "--packets-only", "--threads", "1")
            serving = running_server(folder, *alone, *arguments, patience=180, core=core, OMP_NUM_THREADS="1")
            server = stack.enter_context(serving)
            if link is None:
                return server.url
            proxies.append(stack.enter_context(ShapedProxy(server.port, link)))
            return proxies[-1].url

        found = {2: reached(cores[-1])}
        for exit in middle:
            found[3] = reached(cores[min(1, len(cores) - 1)], "--upstream", found[2], "--exit", exit)
        yield found, proxies
