"""`python -m eval.serving soak | throughput | link`: a real server under load, or over a shaped link."""

from __future__ import annotations

import argparse
import sys


def main(words: list[str]) -> int:
    """Runs a measurement; returns the exit code: 0 done, 1 a bar was missed, 2 a mistake in the request."""
    parser = argparse.ArgumentParser(prog="python -m eval.serving", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    soak = commands.add_parser("soak", help="many clients, some broken, and what becomes of every answer")
    soak.add_argument("--clients", type=int, default=64, metavar="N")
    soak.add_argument("--seconds", type=float, default=300.0, metavar="S")
    soak.add_argument(
        "--pause", type=float, default=0.0, metavar="S", help="of a client between questions, at most"
    )
    soak.add_argument(
        "--kill", action="store_true", help="kill -9 the server in the middle and start it anew"
    )
    soak.add_argument("--seed", type=int, default=0, metavar="N")
    rate = commands.add_parser("throughput", help="answers a second, batched and one at a time")
    rate.add_argument("--seconds", type=float, default=10.0, metavar="S", help="of each turn")
    rate.add_argument("--clients", type=int, default=32, metavar="N")
    rate.add_argument("--batch", type=int, default=16, metavar="N")
    rate.add_argument("--threads", type=int, metavar="N", help="cores for a pass of the model")
    rate.add_argument("--replicas", type=int, metavar="N", help="so many under Ray Serve, over one server")
    link = commands.add_parser("link", help="packets against WebP over a shaped link")
    link.add_argument("--mbit", type=float, default=1.0, metavar="R", help="of the uplink")
    link.add_argument("--round-trip", type=float, default=50.0, metavar="MS")
    link.add_argument("--pictures", type=int, default=16, metavar="N")
    given = parser.parse_args(words)
    from tofc.errors import UserError

    try:
        return _run(given)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


def _run(given: argparse.Namespace) -> int:
    if given.command == "soak":
        from eval.serving.soak import Load
        from eval.serving.soak import main as soak

        return soak(Load(given.clients, given.seconds, given.pause, kill=given.kill, seed=given.seed))
    if given.command == "throughput":
        from eval.serving.throughput import main as throughput

        return throughput(given.seconds, given.clients, given.batch, given.threads, given.replicas)
    from eval.serving.link_bench import main as link

    return link(given.mbit, given.round_trip, given.pictures)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
