"""The commands around one picture and its packet: `tofc example`, `encode`, `info` and `answer`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from tofc.cli import steps
from tofc.cli.files import STREAM, check_input, check_output, read_input, write_output
from tofc.cli.options import (
    ImageArgument,
    JsonOption,
    MaxPixelsOption,
    MemberOptions,
    ModelOption,
    PacketArgument,
    QuestionArgument,
    RateOptions,
)
from tofc.cli.report import (
    answer_fields,
    note,
    packet_line,
    print_json,
    print_table,
    reports_user_errors,
    size_table,
    timing_line,
    working,
)
from tofc.config import DEFAULT_MODEL
from tofc.contents import byte_sections, find_codec, packet_fields
from tofc.errors import UserError

EXAMPLE_EXAMPLES = (
    "Examples:\n\ntofc example\n\ntofc ask cat.png 'What animal is this?'\n\n"
    "tofc example street.jpg\n\ntofc ask street.jpg 'How many cars are there?' --model scenes-tiny"
)


@reports_user_errors
def example(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="cat.png, a photograph, or street.jpg, a drawing.")
    ] = "cat.png",
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Where it goes; else NAME.")
    ] = None,
) -> None:
    """Write a picture to try the other commands on."""
    from tofc.examples import example_bytes

    picture, output = example_bytes(name), output or name
    check_output(output)
    if Path(output).is_file() and read_input(output, "picture") != picture:
        raise UserError(f"{output} is another picture; choose a name with -o")
    write_output(output, picture)
    note(f"wrote {output}; now: tofc ask {output} 'What do you see?'")


ENCODE_EXAMPLES = (
    "Examples:\n\ntofc encode cat.png -o cat.tofc --quality 4\n\n"
    "tofc encode cat.png -o - --max-bytes 400 | ssh edge tofc answer - 'How many cats are there?'"
)
INFO_EXAMPLES = "Examples:\n\ntofc info cat.tofc\n\ncat cat.tofc | tofc info - --json"
ANSWER_EXAMPLES = (
    "Examples:\n\ntofc answer cat.tofc 'Is there a bus in the picture?'\n\n"
    "cat cat.tofc | tofc answer - 'What does the sign say?' --json"
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
    rate: RateOptions,
    progressive: Annotated[
        bool,
        typer.Option(
            "--progressive", help="Send what stands for most of the picture first: better when truncated."
        ),
    ] = False,
    model: ModelOption = DEFAULT_MODEL,
    max_pixels: MaxPixelsOption = None,
    json_: JsonOption = False,
) -> None:
    """Turn a picture into a packet, the way a device does; reads no language model."""
    if json_ and output == STREAM:
        raise UserError(
            "--json and -o - both want standard output; write the packet to a file, or leave out --json"
        )
    check_input(image, "image")
    check_output(output, inputs=(image,))
    steps.check_model(model)
    picture = steps.open_picture(image, max_pixels)
    device = steps.load_device(model)
    packet = steps.encode_picture(device, picture, {**rate.arguments, "progressive": progressive})
    write_output(output, bytes(packet))
    fields = packet_fields(packet, device.codec)
    if json_:
        print_json({"file": output, **fields, "timing": dict(packet.timing)})
        return
    typer.echo(f"{packet_line(fields)}; {timing_line(packet.timing)}", err=output == STREAM)


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
    # NumPy starts a thread a core, and these wait in a loop for more work than the codec's small products.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
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


@reports_user_errors
def answer(
    file: PacketArgument,
    question: QuestionArgument,
    member: MemberOptions,
    json_: JsonOption = False,
) -> None:
    """Answer a question from a packet, the way an edge does; reads no vision tower."""
    from tofc.packet import Packet

    steps.check_question(question)
    steps.check_model(member.model, member.exit)
    packet = Packet.from_bytes(read_input(file, "packet"))
    edge = steps.load_edge(member.model, member.exit)
    result = steps.answer_packet(edge, packet, question, json_)
    if json_:
        fields = packet_fields(packet, edge.codec)
        print_json({**answer_fields(result), **fields, "timing": dict(result.timing)})
        return
    note(f"{len(packet)} bytes; {timing_line(result.timing)}")
