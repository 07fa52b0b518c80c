"""The page: what its server takes and refuses, and the page itself in a real browser."""

from __future__ import annotations

import base64
import http.client
import io
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from typer.testing import CliRunner

import tofc
from tofc import examples
from tofc.cli.app import app
from tofc.cli.ui import image_codecs
from tofc.config import DEFAULT_MODEL
from tofc.packet import Packet
from tofc.ui.app import MAX_BODY, STATIC, create_app
from tofc.ui.rivals import smallest_file
from tofc.ui.studio import LONGEST_COMPARED, Studio

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "build" / "screenshots"  # kept by CI
SECONDS = 60  # the longest that anything on the page may take on a busy machine


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio.load("scenes-tiny", image_codecs())


@pytest.fixture(scope="module")
def client(studio: Studio) -> TestClient:
    return TestClient(create_app(studio), base_url="http://localhost")


def file_of(picture: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def question(picture: Image.Image | bytes, **changes: Any) -> dict[str, Any]:
    data = picture if isinstance(picture, bytes) else file_of(picture)
    asked = {"image": base64.b64encode(data).decode(), "question": "How many cars are there?"}
    return {**asked, "quality": 4, "tokens": 64, "exit": "full", **changes}


# -- the server --


def test_what_can_be_chosen_is_what_the_model_has(client: TestClient, studio: Studio) -> None:
    options = client.get("/api/options").json()
    assert options["qualities"] == list(range(1, 9))
    config = studio.edge.config
    chosen = (options["quality"], options["tokens"], options["max_tokens"])
    assert chosen == (config.default_quality, config.merging.tokens, 196)
    assert [one["name"] for one in options["exits"]] == [member.name for member in studio.edge.family]
    assert options["exits"][-1]["share"] == 1


@pytest.mark.parametrize("size", [(448, 448), (100, 70)])
def test_an_answer_is_that_of_device_and_edge(client, studio, make_picture, size) -> None:
    picture = make_picture(*size)
    said = client.post("/api/ask", json=question(picture, quality=6, tokens=30)).json()
    packet = studio.device.encode(picture, quality=6, tokens=30)
    assert said["answer"] == studio.edge.answer(packet, "How many cars are there?").text
    assert said["bytes"] == len(bytes(packet)) == sum(said["sections"].values())
    assert (said["tokens"], said["picture"]) == (30, {"width": size[0], "height": size[1]})
    assert said["clusters"]["map"] == studio.device.features(picture, 30).cluster_map.tolist()
    assert len(said["clusters"]["colours"]) == 30
    assert [stage["side"] for stage in said["stages"]] == ["device"] * 4 + ["edge"] * 3
    assert Packet.from_bytes(base64.b64decode(said["packet"])) == packet
    jpeg, webp, small, given = said["sizes"]
    assert given["bytes"] == len(file_of(picture))
    assert jpeg["bytes"] > webp["bytes"] > 100
    assert small["bytes"] < jpeg["bytes"]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"question": "  "}, "question is empty"),
        ({"question": "x" * 3000}, "2000"),
        ({"quality": 9}, "quality is 9"),
        ({"tokens": 0}, "greater than or equal to 1"),
        ({"exit": "nowhere"}, "nowhere"),
        ({"draft": "nowhere"}, "nowhere"),
        ({"draft": "full"}, "a verifier is larger than its drafter"),
        ({"draft": "e1", "round_trip_ms": 5000}, "less than or equal to 1000"),
        ({"image": "*"}, "base64"),
        ({"image": base64.b64encode(b"no picture").decode()}, "not an image"),
        ({"image": None}, "image"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(client, make_picture, changes, words) -> None:
    response = client.post("/api/ask", json=question(make_picture(50, 50), **changes))
    assert 400 <= response.status_code < 500
    assert words in response.json()["error"]["message"]
    assert "\n" not in response.json()["error"]["message"]


def test_a_drafted_answer_grows_line_by_line(client, studio, make_picture) -> None:
    picture = make_picture(448, 448)
    asked = question(picture, question="Describe the picture.", draft="e1")
    lines = [json.loads(line) for line in client.post("/api/ask", json=asked).text.splitlines()]
    *growing, last = lines
    packet = studio.device.encode(picture, quality=4, tokens=64)
    plain = client.post("/api/ask", json={**asked, "draft": None}).json()
    assert last["answer"] == plain["answer"] == studio.edge.answer(packet, "Describe the picture.").text
    assert growing
    assert all(one["growing"] for one in growing)
    assert {piece["state"] for piece in last["pieces"]} == {"final"}
    assert "".join(piece["text"] for piece in last["pieces"]).strip() == last["answer"]
    assert 0 < last["drafted"]["stood"] <= last["drafted"]["sent"]
    assert last["bytes"] == plain["bytes"]


def test_unsure_answers_are_called_so(client, studio, make_picture, monkeypatch) -> None:
    answer = studio.edge.answer
    for confidence, unsure in ((0.9, False), (0.3, True), (None, False)):
        monkeypatch.setattr(
            studio.edge, "answer", lambda *a, c=confidence, **k: replace(answer(*a, **k), confidence=c)
        )
        said = client.post("/api/ask", json=question(make_picture(50, 50))).json()
        assert (said["confidence"], said["unsure"]) == (confidence, unsure)


def test_the_smallest_file_with_the_same_answer_is_found(client, studio) -> None:
    data = (STATIC / "examples" / "scene-177.webp").read_bytes()
    asked = question(data, question="Is the sign on the left?")
    said = client.post("/api/ask", json=asked).json()
    assert said["compared"] == ["TOFC packet", "WebP", "JPEG"]
    del asked["quality"]
    most = {"TOFC packet": said["bytes"], "WebP": 2000, "JPEG": 3000}
    for codec in said["compared"]:
        rival = {**asked, "answer": said["answer"], "codec": codec}
        assert 20 < client.post("/api/smallest", json=rival).json()["bytes"] <= most[codec]
    nonsense = {**asked, "answer": "Never said by anyone", "codec": "TOFC packet"}
    assert client.post("/api/smallest", json=nonsense).json() == {"bytes": None}
    unknown = client.post("/api/smallest", json={**asked, "answer": "Yes", "codec": "GIF"})
    assert unknown.status_code == 400
    assert "WebP, JPEG" in unknown.json()["error"]["message"]


def test_image_files_are_tried_larger_only_where_small_ones_lose_the_answer(make_picture) -> None:
    """A file of a pixel a byte, and conditions on the side of what is decoded."""
    picture = make_picture(1000, 500)

    def search(image: Image.Image, keeps: Callable[[Image.Image], bool]) -> int | None:
        tried.append(image.width)
        return image.width * image.height if keeps(image) else None

    cases = [(0, 112 * 56, [112, 224]), (200, 224 * 112, [112, 224]), (900, None, [112, 224, 448])]
    for least, size, sides in cases:
        tried: list[int] = []
        assert smallest_file(picture, 224, search, lambda image, least=least: image.width > least) == size
        assert tried == sides


def test_long_answers_are_not_compared_to_the_letter(client, studio) -> None:
    data = (STATIC / "examples" / "scene-177.webp").read_bytes()
    said = client.post("/api/ask", json=question(data, question="Describe the picture.")).json()
    assert len(studio.edge.tokenizer(said["answer"])["input_ids"]) > LONGEST_COMPARED
    assert said["compared"] == []


# -- what the page begins with --


def test_scenes_tiny_begins_with_drawn_streets(client: TestClient) -> None:
    options = client.get("/api/options").json()
    assert len(options["examples"]) == 3
    for one in options["examples"]:
        response = client.get(f"/examples/{one['name']}")
        assert Image.open(io.BytesIO(response.content)).size == (448, 448)
        assert Path(one["path"]).read_bytes() == response.content
        assert one["questions"]


def test_other_models_begin_with_the_photographs_that_are_installed(studio: Studio) -> None:
    found = examples.examples_for("photos-tiny")
    assert list(found) == [one.name for one in examples.PHOTOGRAPHS if find_spec(one.package)]
    for example, file in found.values():
        with Image.open(file) as photograph:
            assert min(photograph.size) > 200
        assert example.questions
    assert set(examples.questions_for("photos-tiny")) != set(examples.questions_for("scenes-tiny"))


def test_without_photographs_there_are_questions_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tofc.examples.find_spec", lambda name: None)
    assert examples.examples_for("photos-tiny") == {}
    assert examples.questions_for("photos-tiny")


def test_files_beside_the_examples_are_not_given(client: TestClient) -> None:
    for name in ("chelsea.png", "..%2Fapp.py", "%2Fetc%2Fpasswd"):
        assert client.get(f"/examples/{name}").status_code == 404


def test_where_files_lie_is_told_on_this_machine_alone(studio: Studio) -> None:
    elsewhere = TestClient(create_app(studio, "0.0.0.0"), base_url="http://10.0.0.1")
    assert all(one["path"] == one["name"] for one in elsewhere.get("/api/options").json()["examples"])


def test_more_bytes_than_allowed_are_not_read(client: TestClient) -> None:
    headers = {"Content-Length": str(MAX_BODY + 1), "Content-Type": "application/json"}
    assert client.post("/api/ask", headers=headers, content=b"{}").status_code == 413


def test_bombs_are_refused_before_they_are_decoded(client: TestClient) -> None:
    response = client.post("/api/ask", json=question(file_of(Image.new("1", (9000, 9000)))))
    assert response.status_code == 400
    assert "megapixels" in response.json()["error"]["message"]


def test_strangers_can_neither_ask_nor_read(studio: Studio, client: TestClient, make_picture) -> None:
    elsewhere = TestClient(create_app(studio), base_url="http://attacker.example")
    assert elsewhere.get("/api/options").status_code == 400
    # What a page elsewhere can send without being asked for permission first is no JSON.
    body = question(make_picture(50, 50))
    response = client.post("/api/ask", data={"image": body["image"]})
    assert response.status_code == 422
    assert client.get("/../studio.py").status_code == 404


def test_the_page_loads_nothing_from_elsewhere(client: TestClient) -> None:
    policy = client.get("/").headers["content-security-policy"]
    assert policy.startswith("default-src 'self'")
    for file in STATIC.rglob("*"):
        if file.suffix in {".html", ".css", ".js", ".json", ".svg"}:
            addresses = re.findall(r"(?:https?:)?//[\w.]+", file.read_text(encoding="utf-8"))
            assert set(addresses) <= {"http://www.w3.org"}, file.name  # the name of SVG, which nobody fetches


def test_models_without_codec_have_no_page(base_folder: Path) -> None:
    with pytest.raises(tofc.CheckpointError, match="no codec"):
        Studio("plain", tofc.Device.from_pretrained(base_folder), None)


def test_what_nobody_waits_for_is_not_computed(address, studio, make_picture, monkeypatch) -> None:
    """While one question is computed three more come, and the first two of them give up."""
    started, goes_on, computed = threading.Event(), threading.Event(), []

    def slow(data: bytes, question: str, *options: Any) -> dict[str, str]:
        computed.append(question)
        started.set()
        assert goes_on.wait(SECONDS)
        return {"answer": question}

    monkeypatch.setattr(studio, "ask", slow)
    port = int(address.rstrip("/").rsplit(":", 1)[1])

    def send(name: str) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        body = json.dumps(question(make_picture(20, 20), question=name))
        connection.request("POST", "/api/ask", body, {"Content-Type": "application/json"})
        return connection

    first = send("first")
    assert started.wait(SECONDS)
    for impatient in (send("second"), send("third")):
        impatient.close()
    last = send("last")
    for _ in range(2):  # who is answered after those who left is answered by a server that knows it
        urllib.request.urlopen(f"{address}api/options", timeout=SECONDS).close()
    goes_on.set()
    with closing(first), closing(last):
        assert json.load(first.getresponse()) == {"answer": "first"}
        assert json.load(last.getresponse()) == {"answer": "last"}
    assert computed == ["first", "last"]


def test_others_are_answered_while_drafts_are_on_their_way(address, studio, make_picture) -> None:
    """A visitor's rounds take a second each; another is answered before the first of many is over."""
    port = int(address.rstrip("/").rsplit(":", 1)[1])
    ended: list[str] = []

    def send(**changes: Any) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        body = json.dumps(question(make_picture(20, 20), **changes))
        connection.request("POST", "/api/ask", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.readline()
        started.set()
        assert response.status == 200
        response.read()
        ended.append(changes["question"])
        connection.close()

    started = threading.Event()
    member = studio.edge.family[0].name
    slow = {"question": "Describe the picture.", "draft": member, "round_trip_ms": 1000}
    first = threading.Thread(target=lambda: send(**slow))
    first.start()
    assert started.wait(SECONDS)
    send(question="Is there a bus?")
    first.join(SECONDS)
    assert ended == ["Is there a bus?", "Describe the picture."]


# -- the command --


def test_the_command_serves_the_page() -> None:
    command = [sys.executable, "-m", "tofc", "demo-ui", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stderr is not None
            said = next(line for line in running.stderr if line.startswith("open "))
            address = said.split()[1]
            with urllib.request.urlopen(f"{address}api/options", timeout=SECONDS) as response:
                assert json.load(response)["model"] == DEFAULT_MODEL
        finally:
            running.terminate()
    assert "Traceback" not in said


def test_a_port_that_is_taken_is_said_before_a_model_is_loaded(monkeypatch) -> None:
    monkeypatch.setattr(Studio, "load", lambda *_: pytest.fail("a model was loaded"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = CliRunner().invoke(app, ["demo-ui", "--port", port])
    assert done.exit_code == 2
    assert f"cannot listen at 127.0.0.1:{port}" in done.stderr


# -- the page in a browser --


@pytest.fixture(scope="module")
def address(studio: Studio) -> Iterator[str]:
    """Where a real server serves the page."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(studio), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + SECONDS
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = True
    thread.join(SECONDS)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no browser here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
        "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
        f"--user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield found
    found.quit()


class Page:
    """The page as a person uses it."""

    def __init__(self, browser: webdriver.Chrome, address: str, width: int, height: int) -> None:
        self.browser = browser
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(address)
        self.wait(lambda: self.answered)

    def wait(self, condition: Callable[[], object]) -> None:
        WebDriverWait(self.browser, SECONDS).until(lambda _: condition())

    def find(self, name: str) -> Any:
        return self.browser.find_element(By.ID, name)

    @property
    def answered(self) -> bool:
        busy = "busy" in self.find("result").get_attribute("class").split()
        return not busy and self.find("answered").is_displayed()

    @property
    def compared(self) -> bool:
        """Whether the smallest image files stand beside the packet."""
        return self.answered and "…" not in self.find("equal-bars").text

    @property
    def packet_bytes(self) -> str:
        return str(self.find("saving").text.split(" travelled")[0])

    def after(self, act: Callable[[], object]) -> None:
        """Does something, and waits until an answer that is newer stands there.

        The comparison with image files adds to what is said of an answer, at any time: a new one replaces it.
        """
        self.browser.execute_script("document.getElementById('saving').innerHTML = '<i id=\"before\"></i>'")
        act()

        def newer() -> object:
            return not self.browser.find_elements(By.ID, "before") and self.find("saving").text

        self.wait(lambda: self.answered and newer())

    def slide(self, name: str, value: int) -> None:
        self.browser.execute_script(
            "const dial = document.getElementById(arguments[0]); dial.value = arguments[1];"
            "dial.dispatchEvent(new Event('input', {bubbles: true}))",
            name, value,
        )  # fmt: skip

    @property
    def chips(self) -> list[str]:
        """The questions that are proposed."""
        return [one.text for one in self.browser.find_elements(By.CSS_SELECTOR, "#chips button")]

    def tokens(self) -> int:
        return len(self.browser.find_elements(By.CSS_SELECTOR, "#clusters .cell"))

    def shoot(self, name: str) -> Path:
        SHOTS.mkdir(parents=True, exist_ok=True)
        shot = self.browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        (SHOTS / name).write_bytes(base64.b64decode(shot["data"]))
        return SHOTS / name


def test_the_page_shows_an_answer_and_what_it_took(browser, address, studio) -> None:
    page = Page(browser, address, 1280, 900)
    assert page.find("answer").text
    assert page.tokens() == studio.edge.config.merging.tokens
    page.wait(lambda: page.compared)
    for bars, rivals in (("equal-bars", 2), ("bars", 4)):
        names = [e.text for e in browser.find_elements(By.CSS_SELECTOR, f"#{bars} .what")]
        assert "TOFC packet" in names[0]
        assert len(names) == 1 + rivals
        widths = [e.size["width"] for e in browser.find_elements(By.CSS_SELECTOR, f"#{bars} .fill")]
        assert widths[0] < min(widths[1:])
    assert page.find("equal-note").text
    assert page.find("knows").text.endswith(studio.device.config.knows)
    assert {e.text for e in browser.find_elements(By.CSS_SELECTOR, "#stages .name")}
    shot = Image.open(page.shoot("demo-ui.png"))
    assert shot.width == 1280
    assert len(shot.convert("RGB").resize((200, 200)).getcolors(200 * 200)) > 500, "an empty page"


def test_dials_change_what_travels(browser, address) -> None:
    page = Page(browser, address, 1280, 900)
    sizes = [page.packet_bytes]
    for name, value in (("quality", 1), ("tokens", 12)):
        page.after(lambda name=name, value=value: page.slide(name, value))
        sizes.append(page.packet_bytes)
    numbers = [int(size.split()[0].replace(",", "")) for size in sizes]
    assert numbers == sorted(numbers, reverse=True)
    assert len(set(numbers)) == 3
    assert page.tokens() == 12
    page.find("show-picture").click()
    assert "plain" in page.find("frame").get_attribute("class")


def test_drafts_look_different_until_they_are_verified(browser, address) -> None:
    page = Page(browser, address, 1280, 900)
    assert not page.find("kinds").is_displayed()
    browser.execute_script("document.getElementById('question').value = 'Describe the picture.'")
    seen: list[tuple[str, ...]] = []

    def draft() -> None:
        choose(page, "draft", "e1")  # a round trip of 300 ms is chosen already
        page.wait(lambda: seen.append(looks(browser)) or len(seen[-1]) == 2)
        page.shoot("demo-ui-drafts.png")

    page.after(draft)
    final, drafted = seen[-1]
    assert all(a != b for a, b in zip(final, drafted, strict=True))  # colour, slant, line
    assert page.find("kinds").is_displayed()
    assert "drafted, not verified yet" in page.find("kinds").text
    assert "of e1's" in page.find("drafts").text
    assert browser.find_elements(By.CSS_SELECTOR, "#answer .final")
    assert not browser.find_elements(By.CSS_SELECTOR, "#answer .drafted")
    page.after(lambda: choose(page, "draft", ""))
    assert not page.find("kinds").is_displayed()
    choose(page, "exit", "e1")  # nobody is smaller
    assert not page.find("draft").is_enabled()


def looks(browser: webdriver.Chrome) -> Any:
    """How verified and drafted text look at the same moment, where both are there."""
    return browser.execute_script(
        "return ['.final', '.drafted'].map((kind) => document.querySelector(`#answer ${kind}`))"
        ".filter((one) => one).map((one) => getComputedStyle(one))"
        ".map((style) => [style.color, style.fontStyle, style.textDecorationLine])"
    )


def choose(page: Page, name: str, value: str) -> None:
    page.browser.execute_script(
        "const list = document.getElementById(arguments[0]); list.value = arguments[1];"
        "for (const kind of ['input', 'change']) list.dispatchEvent(new Event(kind, {bubbles: true}))",
        name, value,
    )  # fmt: skip


def test_pointing_at_a_token_shows_what_it_stands_for(browser, address, studio) -> None:
    page = Page(browser, address, 1280, 900)
    cell = browser.find_element(By.CSS_SELECTOR, "#clusters .cell")
    browser.execute_script(
        "arguments[0].dispatchEvent(new PointerEvent('pointerover', {bubbles: true}))", cell
    )
    patches = cell.get_dom_attribute("d").count("M")
    assert page.find("hint").text == f"This one token stands for {patches} of 196 patches."
    assert "chosen" in page.find("clusters").get_dom_attribute("class")
    page.after(lambda: page.slide("tokens", 20))
    page.wait(lambda: "chosen" not in page.find("clusters").get_dom_attribute("class"))


def test_tokens_are_reached_by_the_keyboard(browser, address) -> None:
    page = Page(browser, address, 1280, 900)
    page.find("show-picture").send_keys(Keys.SHIFT, Keys.TAB)  # tokens stand before the switch
    seen = []
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_LEFT, Keys.ARROW_UP):
        here = browser.switch_to.active_element
        seen.append(here.get_dom_attribute("data-token"))
        patches = here.get_dom_attribute("d").count("M")
        assert page.find("hint").text == f"This one token stands for {patches} of 196 patches."
        here.send_keys(key)
    assert len(set(seen)) == 4
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert "became" in page.find("hint").text
    page.find("show-picture").click()
    assert not browser.find_element(By.CSS_SELECTOR, "#clusters .cell").is_displayed()


def test_a_new_picture_clears_question_and_answer(browser, address, make_picture, tmp_path) -> None:
    page = Page(browser, address, 1280, 900)
    before = page.chips
    make_picture(300, 150).save(tmp_path / "mine.png")
    page.find("file").send_keys(str(tmp_path / "mine.png"))
    page.wait(lambda: not page.find("answered").is_displayed())
    assert page.find("question").get_property("value") == ""
    assert page.find("waiting").is_displayed()
    assert page.tokens() == 0
    assert page.chips != before
    box = page.find("picture").size
    assert box["width"] == pytest.approx(2 * box["height"], abs=2)
    page.find("question").send_keys("Is there a bus in the picture?")
    page.after(page.find("send").click)
    assert page.find("clusters").get_dom_attribute("viewBox") == "0 0 300 150"
    assert page.find("answer").text
    second = browser.find_elements(By.CSS_SELECTOR, "#examples button")[1]
    page.after(second.click)
    assert page.find("question").get_property("value") == page.chips[0]
    assert second.get_dom_attribute("aria-pressed") == "true"


def test_an_unsure_answer_is_marked(browser, address, studio, monkeypatch) -> None:
    answer = studio.edge.answer
    monkeypatch.setattr(studio.edge, "answer", lambda *a, **k: replace(answer(*a, **k), confidence=0.3))
    page = Page(browser, address, 1280, 900)
    assert page.find("unsure").text == "unsure"
    assert page.find("unsure").location["y"] < page.find("saving").location["y"]
    monkeypatch.setattr(studio.edge, "answer", lambda *a, **k: replace(answer(*a, **k), confidence=0.9))
    page.after(page.find("send").click)
    assert not page.find("unsure").is_displayed()


def test_the_packet_and_the_command_can_be_taken_away(browser, address, studio, tmp_path) -> None:
    browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )
    page = Page(browser, address, 1280, 900)
    (name,) = [f"{Path(one).stem}.tofc" for one in list(studio.examples)[:1]]
    browser.execute_script("arguments[0].click()", page.find("download"))
    page.wait(lambda: (tmp_path / name).exists())
    packet = Packet.from_bytes((tmp_path / name).read_bytes())
    asked = page.find("question").get_property("value")
    assert studio.edge.answer(packet, asked).text == page.find("answer").text
    words = shlex.split(page.find("command").text)
    assert words[:2] == ["tofc", "ask"]
    done = CliRunner().invoke(app, [*words[1:], "--json"])
    assert json.loads(done.stdout)["answer"] == page.find("answer").text
    browser.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite"]})
    browser.execute_script("arguments[0].click()", page.find("copy"))
    page.wait(lambda: page.find("copy").text != "Copy as command")


def test_the_camera_takes_a_picture(browser, address) -> None:
    """Of the browser's own test pattern."""
    page = Page(browser, address, 1280, 900)
    page.find("camera").click()
    page.wait(lambda: page.find("shoot").get_attribute("open") is not None)
    page.find("camera-take").click()
    page.wait(lambda: not page.find("answered").is_displayed())
    page.after(browser.find_element(By.CSS_SELECTOR, "#chips button").click)
    width, height = map(int, page.find("clusters").get_dom_attribute("viewBox").split()[2:])
    assert (width, height) != (448, 448)
    assert page.find("shoot").get_attribute("open") is None


def test_what_is_no_picture_is_said_and_changes_nothing(browser, address, tmp_path) -> None:
    page = Page(browser, address, 1280, 900)
    answer, asked = page.find("answer").text, page.find("question").get_property("value")
    (tmp_path / "letter.png").write_text("Dear all")
    page.find("file").send_keys(str(tmp_path / "letter.png"))
    page.wait(lambda: page.find("picture-trouble").is_displayed())
    assert "cannot show that file" in page.find("picture-trouble").text
    assert page.find("picture").get_property("naturalWidth") == 448
    assert (page.find("answer").text, page.find("question").get_property("value")) == (answer, asked)


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_can_be_read_in_light_and_dark(browser, address, width, scheme) -> None:
    """Nothing is wider than the screen, and text stands out from what is behind it."""
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    page = Page(browser, address, width, 844)
    page.wait(lambda: page.compared)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    for name in (
        "question",
        "send",
        "quality",
        "tokens",
        "exit",
        "draft",
        "answer",
        "camera",
        "command",
        "copy",
    ):
        element = page.find(name)
        assert element.is_displayed()
        assert element.location["x"] + element.size["width"] <= width, name
    for name in ("question", "send", "answer", "saving", "knows", "camera", "command", "hint", "exit"):
        assert browser.execute_script(CONTRAST, page.find(name)) >= 4.5, name
    dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", dark)[:3])) < 200) == (scheme == "dark")
    page.shoot(f"demo-ui-{width}-{scheme}.png")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


# The contrast of an element's text as WCAG defines it, against the first background behind it.
CONTRAST = """
const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
const luminance = (colour) => numbers(colour).slice(0, 3).map((value) => value / 255)
  .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
let behind = arguments[0];
while ((numbers(getComputedStyle(behind).backgroundColor)[3] ?? 1) < 1) behind = behind.parentElement;
const both = [getComputedStyle(arguments[0]).color, getComputedStyle(behind).backgroundColor].map(luminance);
return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
"""


def test_asking_goes_to_the_answer_on_a_small_screen(browser, address) -> None:
    page = Page(browser, address, 360, 700)
    assert page.find("answer").rect["y"] > 700
    page.after(page.find("send").click)
    page.wait(
        lambda: 0 <= browser.execute_script(
            "return document.getElementById('answer').getBoundingClientRect().top") < 350
    )  # fmt: skip


def test_the_browser_has_nothing_to_complain_about(browser, address) -> None:
    """No error on the console, and not one request to another place."""
    browser.get_log("performance")
    browser.get_log("browser")
    Page(browser, address, 1280, 900)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert any(url.endswith("/api/ask") for url in asked)
    assert [url for url in asked if not url.startswith((address, "blob:", "data:"))] == []
