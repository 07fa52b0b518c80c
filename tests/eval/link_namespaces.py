"""A real shaped link of the kernel: two network namespaces, a veth pair, and tc's token bucket between them.

Needs Linux with unprivileged user namespaces (or root), `unshare`, `ip` and `tc`. Rate alone is shaped: the
delay of a veth pair is microseconds, and kernels without netem cannot add to it.
"""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
import sys
import time

from eval.latency.link import Link
from tofc.errors import UserError

_PORT = 5201
_SENDER, _RECEIVER = "10.201.0.1", "10.201.0.2"
_BURST = 2000  # bytes that pass at once: little more than a packet
_SIZE = struct.Struct("!Q")


def why_not() -> str | None:
    """What this machine lacks for `send_through_kernel`; None where it can be tried."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    for tool in ("unshare", "ip", "tc"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    shaping = "tc qdisc add dev tofc0 root tbf rate 1mbit burst 2000 limit 9000"
    probe = f"ip link add tofc0 type veth peer name tofc1 && {shaping}"
    tried = subprocess.run(
        [*_unshare(), "--user", "--map-root-user", "sh", "-c", probe],
        capture_output=True,
        text=True,
        check=False,
    )
    return (
        None if tried.returncode == 0 else f"the kernel refuses: {tried.stderr.strip() or tried.returncode}"
    )


def send_through_kernel(link: Link, num_bytes: int) -> float:
    """Seconds that zeros take over TCP through a link that tc shapes to `link.mbit`.

    Raises UserError where the machine does not allow it, or for a link with delay or loss.
    """
    if link.round_trip or link.loss:
        raise UserError("tc's token bucket shapes rates alone: give a link without round trip and loss")
    if fault := why_not():
        raise UserError(f"this machine cannot shape a link: {fault}")
    command = [*_unshare(), "--user", "--map-root-user", sys.executable, __file__, "send"]
    done = subprocess.run(
        [*command, str(link.mbit), str(num_bytes)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"the shaped link failed: {done.stderr.strip()}")
    return float(done.stdout)


def _unshare() -> list[str]:
    return ["unshare", "--net"]


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def _bring_up(device: str, address: str) -> None:
    _run("ip", "address", "add", f"{address}/24", "dev", device)
    _run("ip", "link", "set", device, "up")


def _send(mbit: float, num_bytes: int) -> float:
    """In the sender's namespace: starts the receiver in another one, and times a transfer to it."""
    with subprocess.Popen(
        [*_unshare(), sys.executable, __file__, "receive"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as receiver:  # fmt: skip
        assert receiver.stdin is not None
        assert receiver.stdout is not None
        receiver.stdout.readline()  # it is in its namespace
        _run(
            "ip", "link", "add", "tofc0", "type", "veth", "peer", "name", "tofc1", "netns", str(receiver.pid)
        )
        _bring_up("tofc0", _SENDER)
        limit = str(num_bytes * 2 + 100_000)  # nothing is dropped
        rate = f"{round(mbit * 1e6)}bit"
        _run(
            "tc",
            "qdisc",
            "add",
            "dev",
            "tofc0",
            "root",
            "tbf",
            "rate",
            rate,
            "burst",
            str(_BURST),
            "limit",
            limit,
        )
        receiver.stdin.write("the device is there\n")
        receiver.stdin.flush()
        receiver.stdout.readline()  # it listens
        with socket.create_connection((_RECEIVER, _PORT), timeout=60) as connection:
            begin = time.perf_counter()
            connection.sendall(_SIZE.pack(num_bytes) + bytes(num_bytes))
            if connection.recv(1) != b"!":
                raise ConnectionError("the receiver closed early")
            return time.perf_counter() - begin


def _receive() -> None:
    """In the receiver's namespace: takes one transfer and says when it is whole."""
    print("here", flush=True)
    sys.stdin.readline()
    _bring_up("tofc1", _RECEIVER)
    with socket.create_server((_RECEIVER, _PORT)) as server:
        print("listening", flush=True)
        connection, _ = server.accept()
        with connection:
            (wanted,) = _SIZE.unpack(connection.recv(_SIZE.size, socket.MSG_WAITALL))
            while wanted and (piece := connection.recv(min(wanted, 1 << 16))):
                wanted -= len(piece)
            if not wanted:
                connection.sendall(b"!")


if __name__ == "__main__":
    if sys.argv[1] == "send":
        print(_send(float(sys.argv[2]), int(sys.argv[3])))
    else:
        _receive()
