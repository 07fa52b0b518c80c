"""The command line: `tofc ask`, `encode`, `info`, `answer`, `serve`, `pretrain`, `train`, `eval`.

Results go to standard output, everything else to standard error. Exit codes: 0 done, 2 what the user can put
right (one line says what), 1 a fault of ours. PyTorch and the models are imported inside the commands, so
that help and mistakes in the command line answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.main import get_command

from tofc import __version__, cli_decoding, cli_eval
from tofc.cli_device import EXPORT_EXAMPLES, export_device
from tofc.cli_familial import TRAIN_FAMILIAL_EXAMPLES, train_familial
from tofc.cli_familial import app as familial_app
from tofc.cli_files import STREAM, check_input, check_output, read_input, write_output
from tofc.cli_packet import byte_sections, find_codec, packet_fields
from tofc.cli_report import (
    JsonOption,
    answer_line,
    milliseconds,
    note,
    print_json,
    print_table,
    report_fault,
    reports_user_errors,
    size_table,
    working,
)
from tofc.cli_serving import (
    SERVE_EXAMPLES,
    AuthoritiesOption,
    CertificateOption,
    DeadlineOption,
    EdgeOption,
    FallbackOption,
    Tls,
    ask_far,
    far_edge,
    serve,
)
from tofc.cli_training import PRETRAIN_EXAMPLES, TRAIN_EXAMPLES, pretrain, train
from tofc.cli_ui import UI_EXAMPLES, demo_ui
from tofc.cli_work import answer_packet, encode_picture, load_device, load_edge, open_picture
from tofc.errors import UserError

if TYPE_CHECKING:
    from tofc.device import Device
    from tofc.edge import Answer
    from tofc.packet import Packet

app = typer.Typer(
    name="tofc",
    help="Ask a vision-language model about a picture through a bitstream of a few hundred bytes.",
    epilog="Start here: tofc ask photo.jpg 'What is in the picture?'",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

ImageArgument = Annotated[
    str, typer.Argument(metavar="IMAGE", help="Any format that Pillow opens; - reads standard input.")
]
PacketArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="A packet that `tofc encode` wrote; - reads standard input.")
]
QuestionArgument = Annotated[str, typer.Argument(metavar="QUESTION", help="The question, in quotes.")]
ModelOption = Annotated[
    str,
    typer.Option("--model", "-m", metavar="SRC", help="A bundled name, a checkpoint folder, or a hub id."),
]
QualityOption = Annotated[
    int | None,
    typer.Option(
        "--quality", "-q", metavar="N", help="1 (fewest bytes) to 8 (best); the model's default if left out."
    ),
]
MaxBytesOption = Annotated[
    int | None,
    typer.Option(
        "--max-bytes",
        metavar="N",
        help="At most N bytes: quality and tokens are found, but for the one given.",
    ),
]
TokensOption = Annotated[
    str | None,
    typer.Option(
        "--tokens",
        metavar="K",
        help="Tokens that travel: a number, or `all`; the model's default if left out.",
    ),
]
MaxPixelsOption = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        metavar="N",
        help="Refuse pictures of more pixels than this (width x height; default 50 million).",
    ),
]
ExitOption = Annotated[
    str,
    typer.Option(
        "--exit", metavar="NAME", help="The member that answers, such as e2-50; in one process also auto."
    ),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tofc {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="TOFC_DEBUG", help="Show the traceback of a fault of ours.")
    ] = False,
) -> None:
    """Options that stand before the command."""
    if debug:
        sys.excepthook = sys.__excepthook__


@app.command(
    epilog="Examples:\n\ntofc ask street.jpg 'How many cars are there?'\n\n"
    "tofc ask street.jpg 'Is there a bus?' --max-bytes 300 --json\n\n"
    "tofc ask street.jpg 'Is there a bus?' --edge https://edge.example:8080 --deadline-ms 300\n\n"
    "tofc ask street.jpg 'Describe the picture.' --tiers device,edge --edge https://edge.example:8080"
)
@reports_user_errors
def ask(
    image: ImageArgument,
    question: QuestionArgument,
    quality: QualityOption = None,
    max_bytes: MaxBytesOption = None,
    tokens: TokensOption = None,
    model: ModelOption = "scenes-tiny",
    exit_: ExitOption = "full",
    far: EdgeOption = None,
    deadline_ms: DeadlineOption = None,
    fallback: FallbackOption = True,
    ca: AuthoritiesOption = None,
    certificate: CertificateOption = None,
    tiers: cli_decoding.TiersOption = None,
    draft: cli_decoding.DraftOption = None,
    max_pixels: MaxPixelsOption = None,
    json_: JsonOption = False,
) -> None:
    """Answer a question about a picture through the bitstream: here, or on an edge far away."""
    _check_question(question)
    rate = _rate_options(quality, max_bytes, tokens)
    drafted = cli_decoding.drafted(tiers, draft, far is not None, model, exit_, deadline_ms)
    remote = far_edge(far, model, deadline_ms, fallback, Tls(ca, certificate), rate, drafted)
    picture = open_picture(image, max_pixels)
    device = load_device(model)
    decoded = None
    if remote is not None and drafted is None:
        packet, answer = ask_far(remote, device, picture, question, deadline_ms, exit_, rate)
    elif drafted is None:
        edge = load_edge(model, exit_)
        packet = encode_picture(device, picture, rate)
        answer = answer_packet(edge, packet, question)
    else:
        packet, decoded = cli_decoding.draft_answer(remote, device, model, picture, question, rate, drafted)
        answer = decoded.answer
    if json_:
        fields = {**_answer_fields(answer), **packet_fields(packet, device.codec)}
        told = {} if remote is None else {"fallback": answer.fallback}
        told |= {} if decoded is None else cli_decoding.decoding_fields(decoded)
        print_json({**fields, **told, "timing": {**packet.timing, **answer.timing}})
        return
    typer.echo(answer_line(answer))
    if answer.fallback:
        note(f"answered on this device, by {answer.exit}: {answer.fallback}")
    if decoded is not None and decoded.counts.rounds:
        cli_decoding.note_decoding(decoded)
    note(f"{_summary(packet, device)}; {_timing({**packet.timing, **answer.timing})}")


@app.command(
    epilog="Examples:\n\ntofc encode street.jpg -o street.tofc --quality 4\n\n"
    "tofc encode street.jpg -o - --max-bytes 400 | ssh edge tofc answer - 'How many cars are there?'"
)
@reports_user_errors
def encode(
    image: ImageArgument,
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Where the packet goes; - writes standard output."
        ),
    ],
    quality: QualityOption = None,
    max_bytes: MaxBytesOption = None,
    tokens: TokensOption = None,
    progressive: Annotated[
        bool,
        typer.Option(
            "--progressive", help="Send what stands for most of the picture first: better when truncated."
        ),
    ] = False,
    model: ModelOption = "scenes-tiny",
    max_pixels: MaxPixelsOption = None,
    json_: JsonOption = False,
) -> None:
    """Turn a picture into a packet, the way a device does; reads no language model."""
    rate = _rate_options(quality, max_bytes, tokens)
    if json_ and output == STREAM:
        raise UserError(
            "--json and -o - both want standard output; write the packet to a file, or leave out --json"
        )
    check_input(image, "image")
    check_output(output, inputs=(image,))
    picture = open_picture(image, max_pixels)
    device = load_device(model)
    packet = encode_picture(device, picture, {**rate, "progressive": progressive})
    write_output(output, bytes(packet))
    if json_:
        fields = packet_fields(packet, device.codec)
        print_json({"file": output, **fields, "timing": dict(packet.timing)})
        return
    typer.echo(f"{_summary(packet, device)}; {_timing(packet.timing)}", err=output == STREAM)


@app.command(epilog="Examples:\n\ntofc info street.tofc\n\ncat street.tofc | tofc info - --json")
@reports_user_errors
def info(
    file: PacketArgument,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="SRC",
            help="The model that wrote the packet, to look inside the payload; bundled ones are recognised.",
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Show what a packet says of itself and where every byte goes."""
    from tofc.packet import Packet

    packet = Packet.from_bytes(read_input(file, "packet"))
    with working("looking inside the payload"):
        codec = find_codec(packet, model)
        sections = byte_sections(packet, codec)
    fields = packet_fields(packet, codec)
    if json_:
        print_json({"file": file, **fields, "sections": sections})
        return
    pictures = ", ".join(f"{p['width']}x{p['height']}" for p in fields["pictures"])
    typer.echo(f"packet of version {fields['version']} for model {fields['model_tag']}: {pictures}")
    if codec is not None:
        typer.echo(f"{fields['tokens']} tokens at quality {fields['quality']}, tiling {fields['tiling']}")
    typer.echo()
    print_table(size_table(sections))
    if codec is None:
        note("the payload is of a model that is not bundled; --model SRC shows what is in it")


@app.command(
    epilog="Examples:\n\ntofc answer street.tofc 'Is there a bus in the picture?'\n\n"
    "cat street.tofc | tofc answer - 'What does the sign say?' --json"
)
@reports_user_errors
def answer(
    file: PacketArgument,
    question: QuestionArgument,
    model: ModelOption = "scenes-tiny",
    exit_: ExitOption = "full",
    json_: JsonOption = False,
) -> None:
    """Answer a question from a packet, the way an edge does; reads no vision tower."""
    from tofc.packet import Packet

    _check_question(question)
    packet = Packet.from_bytes(read_input(file, "packet"))
    edge = load_edge(model, exit_)
    result = answer_packet(edge, packet, question)
    if json_:
        fields = packet_fields(packet, edge.codec)
        print_json({**_answer_fields(result), **fields, "timing": dict(result.timing)})
        return
    typer.echo(answer_line(result))
    note(f"{len(packet)} bytes; {_timing(result.timing)}")


app.command(epilog=SERVE_EXAMPLES)(serve)
app.command(epilog=UI_EXAMPLES)(demo_ui)
app.command(epilog=EXPORT_EXAMPLES)(export_device)
app.command(epilog=PRETRAIN_EXAMPLES)(pretrain)
app.command(epilog=TRAIN_EXAMPLES)(train)
app.command("train-familial", epilog=TRAIN_FAMILIAL_EXAMPLES)(train_familial)
app.add_typer(familial_app)
app.add_typer(cli_eval.app)


def _check_question(question: str) -> None:
    if not question.strip():
        raise UserError("the question is empty; put it in quotes, e.g. 'How many cars are there?'")


def _rate_options(quality: int | None, max_bytes: int | None, tokens: str | None) -> dict[str, Any]:
    """The arguments of `Device.encode` that the options mean; raises UserError where they make no sense."""
    from tofc.config import QUALITIES

    if quality is not None and max_bytes is not None and tokens is not None:
        raise UserError("--quality and --tokens leave --max-bytes nothing to choose; give two of the three")
    if quality is not None and quality not in QUALITIES:
        raise UserError(
            f"--quality is {quality}; it goes from {QUALITIES[0]} (fewest bytes) to {QUALITIES[-1]} (best)"
        )
    if max_bytes is not None and max_bytes < 1:
        raise UserError(f"--max-bytes is {max_bytes}; give a number of bytes of at least 1")
    if tokens is not None and tokens != "all" and not (tokens.isdecimal() and int(tokens) >= 1):
        raise UserError(f"--tokens is {tokens}; give a number of at least 1, or all")
    chosen: dict[str, Any] = {"quality": quality, "max_bytes": max_bytes}
    if tokens is not None:
        chosen["tokens"] = tokens if tokens == "all" else int(tokens)
    return {name: value for name, value in chosen.items() if value is not None}


def _answer_fields(answer: Answer) -> dict[str, Any]:
    """An answer, ready for JSON; `answer_tokens` counts those that the language model generated."""
    return {
        "answer": answer.text,
        "exit": answer.exit,
        "answer_tokens": len(answer.tokens),
        "confidence": answer.confidence,
    }


def _summary(packet: Packet, device: Device) -> str:
    fields = packet_fields(packet, device.codec)
    return f"{fields['bytes']} bytes: {fields['tokens']} tokens at quality {fields['quality']}"


def _timing(timing: Mapping[str, float]) -> str:
    return ", ".join(f"{stage} {milliseconds(seconds)}" for stage, seconds in timing.items())


def main() -> None:
    """Entry point of the console script and of `python -m tofc`."""
    sys.excepthook = report_fault
    # The command itself, not the Typer around it: that would put its own exception hook in place of ours.
    get_command(app)(prog_name="tofc")
