"""Select, answer, aggregate, revise: with agents in processes of their own, some of them bad."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

import tofc
from tests.tofc.agents.misbehaving import BODIES, INJECTED
from tofc.agents import AgentCard, Agents, AgentsConfig
from tofc.agents.endpoints import AgentRequest, collect
from tofc.answer import Answer
from tofc.config import load_yaml
from tofc.errors import EdgeUnreachable, UserError

SCRIPT = Path(__file__).with_name("misbehaving.py")
NO_ANSWERS = (
    *("garbage", "nested", "list", "choiceless", "number", "sure", "timeless", "speechless"),
    *("compressed", "refuses", "no-http", "endless"),
)
Start = Callable[[str], str]
BLANK = Image.new("RGB", (8, 8))


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Gives the address of a server that behaves like this, one process each."""
    running: dict[str, tuple[subprocess.Popen[str], str]] = {}

    def address(behaviour: str) -> str:
        if behaviour not in running:
            process = subprocess.Popen(
                [sys.executable, str(SCRIPT), behaviour], stdout=subprocess.PIPE, text=True
            )
            assert process.stdout is not None
            running[behaviour] = process, f"http://127.0.0.1:{process.stdout.readline().strip()}"
        return running[behaviour][1]

    yield address
    for process, _ in running.values():
        process.kill()
        process.communicate()


def card(name: str, url: str, seconds: float = 60.0, sees: str = "nothing") -> AgentCard:
    return AgentCard(name, f"knows {name}", url=url, sees=sees, deadline_ms=1e3 * seconds)


def group(*cards: AgentCard, server: AgentCard, **more: object) -> Agents:
    config = AgentsConfig(agents=cards, server=server, select=len(cards), **more)  # type: ignore[arg-type]
    return Agents.from_config(config)


def test_who_sends_no_answer_is_named_and_left_out(start: Start) -> None:
    cards = [card(behaviour, start(behaviour)) for behaviour in (*NO_ANSWERS, "honest")]
    with group(*cards, server=card("server", start("honest"))) as agents:
        found = agents.ask(BLANK, "Is there a bus?")
    assert {reply.name for reply in found.replies if reply.fault} == set(NO_ANSWERS)
    assert not any(reply.is_answer for reply in found.replies if reply.name != "honest")
    assert found.text == "Yes"
    assert [one.name for one in found.revised] == ["honest"]


@pytest.mark.parametrize("behaviour", ["hangs", "drips"])
def test_who_hangs_is_waited_for_no_longer_than_its_deadline(start: Start, behaviour: str) -> None:
    """The next agent has an hour; nobody waits for that either once it has answered."""
    bad, good = card("bad", start(behaviour), 0.3), card("good", start("honest"), 3000)
    with group(bad, good, server=card("server", start("honest"), 3000)) as agents:
        found = agents.ask(BLANK, "Is there a bus?")
    assert "within 300 ms" in found.replies[0].fault
    assert found.replies[1].text == "Yes"
    assert found.text == "Yes"


def test_a_process_ends_though_an_agent_hangs(start: Start) -> None:
    script = (
        "from tofc.agents import Agents, AgentCard, AgentsConfig; from PIL import Image\n"
        f"card = lambda name, url, ms: AgentCard(name, name, url=url, sees='nothing', deadline_ms=ms)\n"
        f"cards = card('bad', '{start('hangs')}', 300), card('good', '{start('honest')}', 60000)\n"
        f"config = AgentsConfig(agents=cards, server=card('server', '{start('hangs')}', 300))\n"
        "print(Agents.from_config(config).ask(Image.new('RGB', (8, 8)), 'Is there a bus?').aggregate)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "majority vote, since server failed: no answer within 300 ms" in done.stdout
    assert "text='Yes'" in done.stdout


def test_where_nobody_answers_the_error_names_everybody(start: Start) -> None:
    cards = card("one", start("garbage")), card("two", start("refuses"))
    with (
        group(*cards, server=card("server", start("list"))) as agents,
        pytest.raises(EdgeUnreachable, match=r"server failed.*one: .*two: "),
    ):
        agents.ask(BLANK, "Is there a bus?")


def test_an_agent_cannot_speak_as_the_system(start: Start) -> None:
    """A server that repeats its prompt shows what it was told."""
    with group(card("liar", start("injects")), server=card("server", start("parrot"))) as agents:
        found = agents.ask(BLANK, "Is there a bus?")
    assert found.replies[0].text == INJECTED.strip()
    preamble, quotation, question = found.text.split("\n")
    assert question == "Is there a bus?"
    assert quotation.startswith('liar: "Yes')
    assert quotation.endswith('"')
    assert not set("<>[]|＜＞\x1b\u202e") & set(quotation)
    assert "quotes" in preamble


def test_half_a_character_is_put_right(start: Start) -> None:
    with group(card("odd", start("surrogate")), server=card("server", start("parrot"))) as agents:
        assert agents.ask(BLANK, "Is there a bus?").replies[0].text == "Yes?"


def test_bytes_are_those_of_the_bodies(start: Start) -> None:
    one = card("one", start("honest"), sees="picture")
    with group(one, server=card("server", start("honest")), revise=False) as agents:
        found = agents.ask(BLANK, "Is there a bus?")
        sight = agents.see(BLANK)
    assert sight.jpeg is not None
    assert found.replies[0].received == len(BODIES["honest"])
    assert found.replies[0].sent > 4 / 3 * len(sight.jpeg)
    assert found.packet_bytes == 0
    assert found.traffic["answer"] == found.replies[0].sent + found.replies[0].received
    assert found.revised == ()
    assert list(found.seconds) == ["encode", "select", "answer", "aggregate", "revise"]


def test_faults_of_ours_are_not_hidden() -> None:
    def fails() -> Answer:
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        collect([AgentRequest("one", fails, 60.0)])


def test_everybody_is_asked_at_the_same_time() -> None:
    """None of them answers before all have been asked."""
    together = threading.Barrier(5, timeout=60)

    def answer() -> Answer:
        together.wait()
        return Answer("Yes", "", ())

    replies = collect([AgentRequest(str(n), answer, 120.0) for n in range(5)])
    assert [reply.name for reply in replies] == list("01234")
    assert all(reply.is_answer for reply in replies)


def test_questions_and_roles(start: Start) -> None:
    poet = AgentCard("poet", "verse", url=start("parrot"), sees="nothing", role="You write verse.")
    with group(poet, server=card("server", start("honest")), revise=False) as agents:
        assert agents.ask(BLANK, "A bus?").replies[0].text == "You write verse.\n\nA bus?"
        with pytest.raises(UserError, match="empty"):
            agents.ask(BLANK, "  ")


def test_a_key_that_is_not_set(start: Start) -> None:
    agent = AgentCard("one", "all", url="http://127.0.0.1:9", sees="nothing", key="NO_SUCH_KEY_HERE")
    with pytest.raises(UserError, match="NO_SUCH_KEY_HERE"):
        group(agent, server=card("server", "http://127.0.0.1:9"))


@pytest.mark.parametrize(
    "text, says",
    [
        ("agents: []", "empty"),
        ("agents: [{name: a, description: x, colour: red}]", "unknown key colour; valid are name, desc"),
        ("agents: [{name: a, description: x}, {name: a, description: y}]", "a occurs twice"),
        ("agents: [{name: server, description: x}]", "server occurs twice"),
        ("agents: [{name: a}]", "no description"),
        ("agents: [{name: 'a\\n', description: x}]", "name"),
        ("agents: [{name: a, description: x, sees: picture}]", "url"),
        ("agents: [{name: a, description: x, deadline_ms: 0}]", "deadline_ms"),
        ("agents: [{name: a, description: x}]\naggregate: mean", "server, majority, confidence"),
        ("agents: [{name: a, description: x}]\nselect: 0", "select"),
    ],
)
def test_configurations_are_strict(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(tofc.ConfigError, match=says):
        load_yaml(file, AgentsConfig)
