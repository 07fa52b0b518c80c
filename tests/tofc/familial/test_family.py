"""Members answer like the stock model made of their parts: with cache as without, from disk as in memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlavaOnevisionForConditionalGeneration

import tofc
from tests.tofc.conftest import Made
from tofc import familial
from tofc.errors import CheckpointError, UserError
from tofc.familial.branches import count_parameters, member_model
from tofc.familial.index import INDEX
from tofc.familial.members import BranchSpec, MainSpec, Roster, parse_budget
from tofc.familial.views import Family
from tofc.language.model import text_model

NAMES = ["e1-50", "e1", "e3-50", "e3", "full"]


@pytest.fixture(scope="module")
def edge(made: Made) -> tofc.Edge:
    return tofc.Edge.from_pretrained(made.folder)


@pytest.fixture(scope="module")
def packets(made: Made, make_picture: Any) -> list[tofc.Packet]:
    device = tofc.Device.from_pretrained(made.folder)
    return [device.encode(make_picture(80, 60, seed)) for seed in range(3)]


def prompt(model: Any, length: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(5, model.config.text_config.vocab_size, (2, length), generator=generator)


def test_members_are_listed_with_their_sizes(made: Made, edge: tofc.Edge) -> None:
    for family in (made.family, familial.family(edge), familial.family(made.folder)):
        assert [member.name for member in family] == NAMES
        assert [member.exit_layer for member in family] == [1, 1, 3, 3, 5]
    for member in made.family:
        model = made.family.model(member.name)
        assert member.num_parameters == count_parameters(text_model(model), model.lm_head)
        assert member.share == pytest.approx(member.num_parameters / made.family[-1].num_parameters)
    main = made.family.roster.main
    brought = made.family.named("e3").num_parameters - main.outside - 3 * main.layer
    assert 0.9 * main.layer < brought <= main.layer


def test_the_full_member_is_the_stock_model(made: Made, edge: tofc.Edge) -> None:
    stock = LlavaOnevisionForConditionalGeneration.from_pretrained(made.folder / "base", dtype=torch.float32)
    ids = prompt(stock)
    settings: Any = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    ours = edge.family.model("full").generate(input_ids=ids, **settings)
    assert ours.tolist() == stock.generate(input_ids=ids, **settings).tolist()


def test_a_branch_that_is_the_next_block_is_the_stock_model(made: Made) -> None:
    """A view through all blocks but the last, then the last as the branch, equals stock greedy decoding."""
    from tofc.familial.branches import Branch

    model = made.family.main
    view = member_model(model, Branch("e4", 4, [text_model(model).layers[4]]))
    ids = prompt(model)
    settings: Any = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(view.generate(input_ids=ids, **settings), model.generate(input_ids=ids, **settings))


@pytest.mark.parametrize("name", NAMES)
def test_with_cache_as_without(made: Made, name: str) -> None:
    model = made.family.model(name)
    ids = prompt(model)
    settings: Any = {"max_new_tokens": 16, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    cached = model.generate(input_ids=ids, use_cache=True, **settings)
    plain = ids
    for _ in range(16):
        with torch.no_grad():
            plain = torch.cat(
                [plain, model(input_ids=plain, use_cache=False).logits[:, -1:].argmax(-1)], dim=1
            )
    assert cached.tolist() == plain.tolist()


def test_weights_are_shared(made: Made) -> None:
    family = made.family
    owned = {p.data_ptr() for p in family.main.parameters()}
    for name in ("e1", "e3", "e3-50"):
        member = family.named(name)
        view = family.model(name)
        ours = {p.data_ptr() for p in family.branch(member.branch or "").parameters()}
        assert {p.data_ptr() for p in text_model(view).parameters()} <= owned | ours
        assert family.model(name) is view  # made once: switching costs nothing


def test_a_family_round_trips(made: Made, edge: tofc.Edge, packets: list[tofc.Packet]) -> None:
    pictures = [(packet, question) for packet in packets for question in ("How many?", "What colour is it?")]
    memory = tofc.Edge(
        made.family.main, edge.tokenizer, edge.template, edge.config, edge.codec, family=made.family
    )
    answers = {}
    for name in NAMES:
        answers[name] = edge.answer_many(pictures, exit=name, max_new_tokens=8)
        assert answers[name] == memory.answer_many(pictures, exit=name, max_new_tokens=8)
        assert {answer.exit for answer in answers[name]} == {name}
        one = [edge.answer(packet, question, exit=name, max_new_tokens=8) for packet, question in pictures]
        assert one == answers[name]
    assert len({tuple(answer.tokens for answer in some) for some in answers.values()}) > 3


@pytest.mark.parametrize("name", NAMES[:-1])
def test_an_edge_reads_what_its_exit_needs(
    made: Made, edge: tofc.Edge, packets: list[Any], name: str
) -> None:
    small = tofc.Edge.from_pretrained(made.folder, exit=name)
    member = edge.family.named(name)
    assert small.exit == name
    assert len(text_model(small.family.main).layers) == member.exit_layer
    asked = [(packet, "How many?") for packet in packets]
    assert small.answer_many(asked, max_new_tokens=8) == edge.answer_many(asked, exit=name, max_new_tokens=8)
    rows = small.family.branch(member.branch or "", member.ratio).state_dict()
    complete = edge.family.branch(member.branch or "", 1.0).state_dict()
    halves = [len(rows[key]) / len(complete[key]) for key in rows if key.endswith((".down", ".up"))]
    assert all(0.4 <= half <= 0.5 for half in halves) if name.endswith("-50") else set(halves) == {1.0}
    with pytest.raises(UserError, match=r"'full' needs 5 blocks.*here are: e1-50"):
        small.answer(packets[0], "How many?", exit="full")


def test_any_rank_of_a_branch_is_a_member(edge: tofc.Edge, packets: list[tofc.Packet]) -> None:
    assert edge.answer(packets[0], "How many?", exit="e3-73", max_new_tokens=4).exit == "e3-73"
    sizes = [edge.family.named(f"e3-{percent}").num_parameters for percent in range(10, 100, 10)]
    assert sizes == sorted(sizes)


def test_limits_choose_exit_and_rank(edge: tofc.Edge) -> None:
    family = familial.family(edge)
    full = family[-1].num_parameters
    for ratio in (0.45, 0.6, 0.75, 0.9, 1.0):
        chosen = familial.member(edge, ratio=ratio)
        assert chosen.num_parameters <= ratio * full
        assert chosen == familial.member(edge, budget=ratio * full)
        larger = [m for m in family if chosen.num_parameters < m.num_parameters <= ratio * full]
        assert all(member.exit_layer <= chosen.exit_layer for member in larger)
    assert familial.member(edge, ratio=1.0).name == "full"
    assert familial.member(edge, max_latency_ms=1e6).name == "full"


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"budget": "1K"}, r"no member has 1K parameters.*smallest is e1-50.*e1-50, e1, e3-50, e3, full"),
        ({"budget": "3.2 apples"}, "450M or 3.2B"),
        ({"budget": -5}, "above 0"),
        ({"ratio": 1.5}, "above 0 to 1"),
        ({"max_latency_ms": 1e-9}, "no member decodes a token within"),
        ({}, "exactly one"),
        ({"budget": "1M", "ratio": 0.5}, "exactly one"),
        ({"ratio": 0.5, "max_latency_ms": 3}, "exactly one"),
    ],
)
def test_impossible_limits_are_explained(edge: tofc.Edge, limits: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        familial.member(edge, **limits)


def test_budgets_are_read_like_people_write_them() -> None:
    assert [parse_budget(text) for text in ("3.2B", "450M", "7k", "12", 5e6)] == [3.2e9, 450e6, 7e3, 12, 5e6]


@pytest.mark.parametrize("name", ["e2", "e1-0", "e1-100", "e9-50", "E1", "", "half", "e1-5x"])
def test_an_unknown_exit_lists_those_that_exist(
    made: Made, edge: tofc.Edge, packets: list[Any], name: str
) -> None:
    with pytest.raises(UserError, match=r"no exit .*e1-50, e1, e3-50, e3, full"):
        edge.answer(packets[0], "How many?", exit=name)
    with pytest.raises(UserError, match=r"no exit .*e1-50, e1, e3-50, e3, full"):
        tofc.Edge.from_pretrained(made.folder, exit=name)


def test_a_model_without_family_has_the_full_exit_alone(checkpoint_folder: Path) -> None:
    with pytest.raises(UserError, match="this model has: full"):
        tofc.Edge.from_pretrained(checkpoint_folder, exit="e1")
    with pytest.raises(CheckpointError, match="train-familial"):
        familial.family(checkpoint_folder)
    assert familial.family(tofc.Edge.from_pretrained(checkpoint_folder)).names == ["full"]


def test_a_family_of_another_model_is_refused(made: Made, base_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(made.folder, folder)
    shutil.copy(base_folder / "model.safetensors", folder / "base")
    with pytest.raises(CheckpointError, match=r"family of another model.*e1-50, e1"):
        tofc.Edge.from_pretrained(folder, exit="e1")


def test_damage_is_noticed(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(made.folder, folder)
    file = folder / "family" / "e1.safetensors"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="damaged"):
        tofc.Edge.from_pretrained(folder, exit="e1")
    index = folder / "family" / INDEX
    values = json.loads(index.read_text())
    values["branches"][1]["ranks"][0][2] += 5
    index.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=INDEX):
        tofc.Edge.from_pretrained(folder, exit="e3")
    index.write_text(json.dumps({**values, "format_version": 99}))
    with pytest.raises(UserError, match="format_version"):
        tofc.Edge.from_pretrained(folder)


def test_branches_have_names_of_their_own() -> None:
    spec = BranchSpec("e1", 1, (1.0,), (), 10)
    with pytest.raises(UserError, match="share a name"):
        Roster(MainSpec(2, 10, 10, 1, 0), (spec, spec))
    with pytest.raises(UserError, match="small letters"):
        BranchSpec("full", 1, (1.0,), (), 10)


def test_several_branches_may_leave_at_one_exit(made: Made) -> None:
    from tests.tofc.conftest import decomposed

    text = text_model(made.family.main)
    inputs = torch.randn(4, 32, text.config.hidden_size, generator=torch.Generator().manual_seed(3))
    first, second = decomposed(text, 2, inputs), decomposed(text, 2, 5 + inputs)
    second.name = "e2b"
    family = Family(made.family.main, [first, second])
    assert family.names == ["e2-50", "e2b-50", "e2", "e2b", "full"]
    ids = prompt(made.family.main)
    logits = [family.model(name)(input_ids=ids).logits for name in ("e2", "e2b")]
    assert not torch.allclose(*logits)
