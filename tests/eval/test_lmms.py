"""The model of lmms-eval, request by request; test_lmms_command.py runs whole benchmarks."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest
import torch
from lmms_eval.api.instance import Instance

from eval.lmms.model import TofcChat, TofcSimple
from eval.lmms.options import Options
from eval.lmms.requests import Sent, Settings, rate_summary
from tofc import Device, Edge
from tofc.errors import ConfigError, UserError

SHORT = {"max_new_tokens": 6, "until": ["\n\n"], "temperature": 0.0, "do_sample": False, "top_p": 1.0}


class Task:
    """Documents with the two functions that lmms-eval's tasks have, `(pictures, question)` each."""

    def __init__(self, *documents, use_cache=None, output_path=None):
        self.documents = documents
        self.args = Namespace(use_cache=use_cache, output_path=output_path)

    def doc_to_visual(self, document):
        return document[0]

    def doc_to_messages(self, document):
        images = [{"type": "image", "url": picture} for picture in document[0]]
        return [{"role": "user", "content": [*images, {"type": "text", "text": document[1]}]}]

    def requests(self, model, settings=SHORT, padding=()):
        model.task_dict["task"] = {"test": self.documents}
        made = []
        for index, (_, question) in enumerate(self.documents):
            simple = (question, settings, self.doc_to_visual, index, "task", "test")
            chat = (question, self.doc_to_messages, settings, index, "task", "test")
            metadata = {"task": "task", "doc_id": index, "repeats": 1}
            if index in padding:
                metadata["__padding_only__"] = True
            made.append(Instance("generate_until", simple if model.is_simple else chat, 0, metadata))
        return made

    def ask(self, model, **how):
        return [answer.text for answer in model.generate_until(self.requests(model, **how))]


@pytest.fixture
def folder(checkpoint_folder):
    return str(checkpoint_folder)


@pytest.fixture
def pictures(make_picture):
    return [make_picture(100, 70, seed) for seed in range(3)]


@pytest.fixture
def expected(folder):
    """Answers straight from device and edge, about pictures that travel in one packet."""
    device, edge = Device.from_pretrained(folder), Edge.from_pretrained(folder)

    def answer(images, question, max_new_tokens=6, **how):
        packet = bytes(device.encode(images, **how))
        return edge.answer(packet, question, max_new_tokens=max_new_tokens), len(packet)

    return answer


@pytest.mark.parametrize("form", [TofcSimple, TofcChat])
def test_pictures_of_one_request_travel_in_one_packet(form, folder, pictures, expected):
    model = form(pretrained=folder, quality=5, tokens=9)
    task = Task((pictures[:2], "How many cars?"), (pictures[2:], "What colour?"), (pictures, "Which?"))
    right = [expected(images, question, quality=5, tokens=9) for images, question in task.documents]
    assert task.ask(model) == [answer.text for answer, _ in right]
    assert model.sent == [
        Sent(
            "task", index, len(task.documents[index][0]), size, 9 * count, 5, len(answer.tokens), answer.text
        )
        for index, (count, (answer, size)) in enumerate(zip((2, 1, 3), right, strict=True))
    ]


def test_answers_do_not_depend_on_the_batch(folder, pictures, expected):
    task = Task(*(([picture], question) for question in ("Is it red?", "How many?") for picture in pictures))
    right = [expected(images, question)[0].text for images, question in task.documents]
    for batch_size in (1, 2, 8):
        assert task.ask(TofcChat(pretrained=folder, batch_size=batch_size)) == right


def test_what_is_asked_about_the_same_pictures_is_encoded_once(folder, pictures, monkeypatch):
    model = TofcSimple(pretrained=folder, batch_size=2)
    encoded = []
    encode = model.device_side.encode
    monkeypatch.setattr(
        model.device_side, "encode", lambda images, *how: encoded.append(images) or encode(images, *how)
    )
    first, second, third = pictures
    task = Task(*(([picture.copy()], "How many?") for picture in (first, first, second, first, third)))
    answers = task.ask(model)
    assert len(encoded) == 3
    assert answers[0] == answers[1] == answers[3]
    assert len(model.sent) == 5  # each counts as if its pictures were sent for it alone
    assert model.sent[0].bytes == model.sent[1].bytes == model.sent[3].bytes


def test_padding_is_answered_with_nothing_and_does_not_count(folder, pictures, expected):
    model = TofcChat(pretrained=folder)
    task = Task(*(([picture], "How many?") for picture in pictures))
    right = expected([pictures[1]], "How many?")[0].text
    assert task.ask(model, padding=(0, 2)) == ["", right, ""]
    assert [one.doc_id for one in model.sent] == [1]


def test_an_answer_ends_before_the_first_of_the_strings_that_end_it(folder, pictures):
    model = TofcChat(pretrained=folder)
    task = Task(([pictures[0]], "How many?"))
    (whole,) = task.ask(model, settings={"max_new_tokens": 12})
    half = len(whole) // 2
    early, late = whole[half // 2 : half // 2 + 3], whole[half : half + 3]
    assert 0 <= whole.find(early) <= whole.find(late) > 0
    for until in ([late, early], [early], ["not in it", early]):
        settings = {"max_new_tokens": 12, "until": until}
        assert task.ask(model, settings=settings) == [whole[: whole.find(early)].strip()]
    assert task.ask(model, settings={"max_new_tokens": 12, "until": "not in it"}) == [whole]


@pytest.mark.parametrize(
    "given, generation, until",
    [
        ({}, {"do_sample": False}, ()),
        (
            {"max_new_tokens": 16, "temperature": 0.0, "top_p": 1.0, "num_beams": 1, "do_sample": False},
            {"max_new_tokens": 16, "num_beams": 1, "do_sample": False},
            (),
        ),
        ({"temperature": 0, "do_sample": True}, {"do_sample": False}, ()),
        ({"temperature": 0.7, "do_sample": False}, {"do_sample": False}, ()),
        ({"temperature": 0.7, "top_p": None}, {"temperature": 0.7, "do_sample": True}, ()),
        ({"do_sample": True, "top_p": 0.9}, {"top_p": 0.9, "do_sample": True}, ()),
        ({"until": "\n\n"}, {"do_sample": False}, ("\n\n",)),
        ({"until": ["", "\n", "."]}, {"do_sample": False}, ("\n", ".")),
        ({"until": None, "image_aspect_ratio": "original"}, {"do_sample": False}, ()),
    ],
)
def test_decoding_is_greedy_unless_a_task_samples(given, generation, until):
    assert Settings.read(given) == Settings(generation, until)


def test_a_setting_that_generation_does_not_know_is_an_error(folder, pictures):
    with pytest.raises(UserError, match="max_gen_toks"):
        Task((pictures, "How many?")).ask(TofcChat(pretrained=folder), settings={"max_gen_toks": 3})


def test_uncoded_features_cost_two_bytes_a_value(folder, pictures):
    model = TofcSimple(pretrained=folder, codec=False, tokens=7)
    task = Task((pictures[:2], "How many?"), (pictures[:1], "How many?"))
    given = task.ask(model)
    width = model.device_side.vision.width
    assert [(one.bytes, one.tokens, one.quality) for one in model.sent] == [
        (2 * 14 * width, 14, None),
        (2 * 7 * width, 7, None),
    ]
    features = model.device_side.features(pictures[0], 7)
    halves = replace(features, tokens=features.tokens.half().float())
    right = model.edge.answer_features(halves, "How many?", max_new_tokens=6)
    assert given[1] == right[0].text


def test_max_bytes_bounds_each_request_and_the_quality_chosen_is_told(folder, pictures):
    model = TofcSimple(pretrained=folder, max_bytes=160)
    task = Task(*(([picture], "How many?") for picture in pictures))
    task.ask(model)
    for one, picture in zip(model.sent, pictures, strict=True):
        packet = model.device_side.encode(picture, max_bytes=160)
        assert one.bytes == len(bytes(packet)) <= 160
        assert (one.tokens, one.quality) == (
            packet.num_tokens,
            model.device_side.codec.quality_of(packet.payload),
        )


def test_rates_are_written_where_the_results_are(folder, pictures, tmp_path):
    task = Task(*(([picture], "How many?") for picture in pictures), output_path=str(tmp_path / "out"))
    model = TofcChat(pretrained=folder)
    task.ask(model)
    sent = list(model.sent)
    model.clean()
    # lmms-eval's folder for the results of a model that lies in a folder
    (lines,) = (tmp_path / "out").glob("*__tiny/*_rates.jsonl")
    assert [Sent(**json.loads(line)) for line in lines.read_text().splitlines()] == sent
    whole = json.loads(lines.with_suffix(".json").read_text())
    sizes = [one.bytes for one in sent]
    assert (
        whole["rates"]["task"]
        == whole["rates"]["all"]
        == {
            "requests": 3,
            "bytes_mean": sum(sizes) / 3,
            "bytes_p50": sorted(sizes)[1],
            "bytes_p95": pytest.approx(sorted(sizes)[1] + 0.9 * (max(sizes) - sorted(sizes)[1])),
            "tokens_mean": 12,
        }
    )
    assert whole["options"]["pretrained"] == folder
    assert whole["requests"] == lines.name


def test_rates_go_to_the_folder_that_is_named(folder, pictures, tmp_path):
    task = Task((pictures, "How many?"), output_path=str(tmp_path / "out"))
    model = TofcChat(pretrained=folder, rates=str(tmp_path / "rates"))
    task.ask(model)
    model.clean()
    assert len(list((tmp_path / "rates").iterdir())) == 2
    assert not (tmp_path / "out").exists()


def test_a_rate_that_cannot_be_computed_is_an_error(folder, pictures):
    with pytest.raises(UserError, match="no request was answered"):
        rate_summary([])
    with pytest.raises(UserError, match="without it"):
        Task((pictures, "How many?"), use_cache="cache").ask(TofcChat(pretrained=folder))


def test_summary_tells_tasks_apart():
    sent = [Sent("a", 0, 1, size, 64, 4, 1) for size in (100, 300)] + [Sent("b", 0, 1, 800, 32, 4, 1)]
    rates = rate_summary(sent)
    assert {name: (row["requests"], row["bytes_mean"]) for name, row in rates.items()} == {
        "a": (2, 200), "b": (1, 800), "all": (3, 400)
    }  # fmt: skip
    assert rates["all"]["tokens_mean"] == pytest.approx(np.mean([64, 64, 32]))


def test_an_unknown_option_is_answered_with_the_valid_ones():
    with pytest.raises(ConfigError, match="unknown key qualty; valid are pretrained, quality, tokens"):
        TofcChat.create_from_arg_string("pretrained=scenes-tiny,qualty=4", {"batch_size": 1})
    with pytest.raises(ConfigError, match="missing pretrained"):
        TofcChat.create_from_arg_string("quality=4", {"batch_size": "4", "device": None})
    with pytest.raises(ConfigError, match="max_batch_size"):
        TofcChat.create_from_arg_string("pretrained=scenes-tiny", {"max_batch_size": 8})


@pytest.mark.parametrize(
    "values, message",
    [
        ({"codec": False, "quality": 4}, "codec=false"),
        ({"codec": False, "max_bytes": 400}, "codec=false"),
        ({"quality": 4, "tokens": 64, "max_bytes": 400}, "two of the three"),
        ({"batch_size": "auto"}, "give a number"),
        ({"batch_size": 0}, "at least 1"),
        ({"quality": "high"}, "quality"),
    ],
)
def test_options_that_contradict_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        Options.read({"pretrained": "scenes-tiny", **values})


def test_model_args_come_before_the_command_lines_own_options(folder):
    model = TofcChat.create_from_arg_string(
        f"pretrained={folder},batch_size=3,tokens=all,exit=full,dtype=bfloat16",
        {"batch_size": "1", "device": "cpu", "max_batch_size": None},
    )
    assert (model.batch_size, model.device, model.options.tokens) == (3, torch.device("cpu"), "all")
    assert model.edge.model.dtype == torch.bfloat16


def test_an_exit_that_is_not_there_is_refused(folder):
    with pytest.raises(UserError, match="no exit 'early'"):
        TofcChat(pretrained=folder, exit="early")


def test_a_plain_model_answers_uncoded_only(base_folder, pictures):
    with pytest.raises(UserError, match="codec=false"):
        TofcChat(pretrained=str(base_folder))
    model = TofcChat(pretrained=str(base_folder), codec=False, tokens="all")
    Task((pictures, "How many?")).ask(model)
    assert model.sent[0].quality is None


@pytest.mark.parametrize("kind", ["loglikelihood", "generate_until_multi_round"])
def test_other_kinds_of_requests_name_what_works(folder, kind):
    with pytest.raises(NotImplementedError, match=f"{kind}.*generate_until, such as realworldqa and mme"):
        getattr(TofcChat(pretrained=folder), kind)([])


@pytest.mark.parametrize("shown", [[], ["clip.mp4"], [{"array": [0.0], "sampling_rate": 1}]])
def test_only_pictures_can_be_shown(folder, shown):
    with pytest.raises(UserError, match=r"document 0 of task task shows .*one or several images"):
        Task((shown, "What happens?")).ask(TofcSimple(pretrained=folder))


def test_chat_messages_have_one_turn_of_pictures_and_text(folder, pictures, expected):
    model = TofcChat(pretrained=folder)
    text = [{"type": "text", "text": part} for part in ("Look.", "How many?")]
    image = {"type": "image", "url": pictures[0]}
    task = Task((pictures, ""))
    task.doc_to_messages = lambda document: [{"role": "user", "content": [text[0], image, text[1]]}]
    assert task.ask(model) == [expected(pictures[:1], "Look.\nHow many?")[0].text]
    task.doc_to_messages = lambda document: [{"role": "system", "content": text[:1]}] * 2
    with pytest.raises(UserError, match="turns of system, system"):
        task.ask(model)
    task.doc_to_messages = lambda document: [{"role": "user", "content": [{"type": "video", "url": "a.mp4"}]}]
    with pytest.raises(UserError, match="shows ChatVideoContent"):
        task.ask(model)
