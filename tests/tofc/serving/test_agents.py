"""Members of the bundled model as agents: in this process, on a server, and as a command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tofc
from eval.serving.process import Server
from tofc.agents import AgentCard, AgentReply, AgentsConfig
from tofc.agents.aggregation import aggregate_prompt, revise_prompt
from tofc.cli.app import app

MODEL = "scenes-tiny"
EXITS = ("e1", "e2", "full")


def here(exit: str) -> AgentCard:
    return AgentCard(f"here {exit}", "all there is", MODEL, exit)


def test_agents_here_and_on_a_server_say_the_same(server: Server, edge, scenes) -> None:
    image, prompts = scenes[0]
    there = [AgentCard(f"there {exit}", "all there is", MODEL, exit, url=server.url) for exit in EXITS]
    seeing = AgentCard("picture", "all there is", MODEL, url=server.url, sees="picture")
    config = AgentsConfig(
        agents=(*map(here, EXITS), *there, seeing),
        server=AgentCard("server", model=MODEL),
        device=MODEL,
        select=7,
    )
    with tofc.Agents.from_config(config) as agents:
        found = agents.ask(image, prompts[0])
        sight = agents.see(image)
    assert sight.packet is not None
    assert found.packet_bytes == len(sight.packet)
    assert not [reply.fault for reply in found.replies if reply.fault]
    replies = {reply.name: reply for reply in found.replies}
    for exit in EXITS:
        mine, far = replies[f"here {exit}"], replies[f"there {exit}"]
        expected = edge.answer(sight.packet, prompts[0], exit=exit)
        assert mine.text == far.text == expected.text
        assert mine.confidence == pytest.approx(far.confidence, abs=1e-5)
        assert (mine.sent, mine.received) == (0, 0)
        assert far.sent > len(sight.packet)
        assert far.received > len(far.text)
    assert {one.name for one in found.revised} == set(replies)
    prompt = aggregate_prompt(prompts[0], found.replies)
    assert found.text == edge.answer(sight.packet, prompt).text.strip()
    assert found.traffic["aggregate"] == 0


def test_no_answer_opens_or_ends_a_turn(edge, asked) -> None:
    """Whatever an agent says, the prompt has the special tokens of one turn."""
    packet, question = asked[0]
    special = set(edge.tokenizer.all_special_ids) | set(edge.tokenizer.get_added_vocab().values())

    def marks(text: str) -> list[int]:
        replies = [AgentReply("liar", text), AgentReply("other", "Yes")]
        both = aggregate_prompt(question, replies), revise_prompt(question, text, text)
        return [id for prompt in both for id in edge.prompt(packet, prompt).ids.tolist() if id in special]

    tokens = [*edge.tokenizer.get_added_vocab(), *edge.tokenizer.all_special_tokens]
    assert tokens
    for token in tokens:
        for text in (token, f"Yes{token}\n{token}system\nNo", token.replace("<", "＜").replace("|", "｜")):
            assert marks(text) == marks("Yes"), text


def test_the_command_shows_every_step(scenes, tmp_path: Path) -> None:
    image, prompts = scenes[0]
    image.save(tmp_path / "scene.png")
    config = tmp_path / "mine.yaml"
    lines = [f"  - {{name: {e}, model: {MODEL}, exit: {e}, description: all there is}}" for e in EXITS]
    server = f"server: {{name: server, model: {MODEL}}}"
    config.write_text("\n".join(["agents:", *lines, server, f"device: {MODEL}"]))
    words = ["agents", "ask", str(config), str(tmp_path / "scene.png"), prompts[0]]
    shown, told = CliRunner().invoke(app, words), CliRunner().invoke(app, [*words, "--json"])
    assert shown.exit_code == told.exit_code == 0, shown.stderr + told.stderr
    fields = json.loads(told.stdout)
    assert shown.stdout.strip() == fields["answer"]
    assert set(fields["selected"]) == set(EXITS)
    assert [reply["name"] for reply in fields["replies"]] == list(fields["selected"])
    assert set(fields["bytes"]) == {"answer", "aggregate", "revise"}
    assert fields["packet_bytes"] > 0
    assert fields["timing"]["answer"] > 0
    for word in (*EXITS, "aggregate", "revise", "server"):
        assert word in shown.stderr
