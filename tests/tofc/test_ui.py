"""The page: what its server takes and refuses, and the page itself in a real browser."""

from __future__ import annotations

import base64
import http.client
import io
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from typer.testing import CliRunner

import tofc
from tofc.cli.app import app
from tofc.ui.app import MAX_BODY, STATIC, create_app
from tofc.ui.studio import Studio

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "build" / "screenshots"  # kept by CI
SECONDS = 60  # the longest that anything on the page may take on a busy machine


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio.load("scenes-tiny")


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
    given, jpeg, webp, small = said["sizes"]
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
                assert json.load(response)["model"] == "scenes-tiny"
        finally:
            running.terminate()
    assert "Traceback" not in said


def test_a_port_that_is_taken_is_said_before_a_model_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = CliRunner().invoke(app, ["demo-ui", "--port", port, "--model", "there-is-none"])
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
    def packet_bytes(self) -> str:
        return str(self.find("saving").text.split(" travelled")[0])

    def after(self, act: Callable[[], object]) -> None:
        """Does something, and waits until an answer that is newer stands there."""
        self.browser.execute_script("document.getElementById('saving').textContent = ''")
        act()
        self.wait(lambda: self.answered and self.find("saving").text)

    def slide(self, name: str, value: int) -> None:
        self.browser.execute_script(
            "const dial = document.getElementById(arguments[0]); dial.value = arguments[1];"
            "dial.dispatchEvent(new Event('input', {bubbles: true}))",
            name, value,
        )  # fmt: skip

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
    names = [e.text for e in browser.find_elements(By.CSS_SELECTOR, "#bars .what")]
    assert names[0] == "TOFC packet"
    assert {name.split(",")[0] for name in names[1:]} == {"the file you gave", "JPEG", "WebP"}
    widths = [e.size["width"] for e in browser.find_elements(By.CSS_SELECTOR, "#bars .fill")]
    assert widths[0] < min(widths[1:])
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
    assert "chosen" not in page.find("clusters").get_dom_attribute("class")


def test_a_picture_of_ones_own_is_asked_about(browser, address, make_picture, tmp_path) -> None:
    page = Page(browser, address, 1280, 900)
    make_picture(300, 150).save(tmp_path / "mine.png")
    page.after(lambda: page.find("file").send_keys(str(tmp_path / "mine.png")))
    assert page.find("clusters").get_dom_attribute("viewBox") == "0 0 300 150"
    box = page.find("picture").size
    assert box["width"] == pytest.approx(2 * box["height"], abs=2)
    page.find("question").clear()
    page.find("question").send_keys("Is there a bus in the picture?")
    page.after(page.find("send").click)
    assert page.find("answer").text


def test_the_camera_takes_a_picture(browser, address) -> None:
    """Of the browser's own test pattern."""
    page = Page(browser, address, 1280, 900)
    page.find("camera").click()
    page.wait(lambda: page.find("shoot").get_attribute("open") is not None)
    page.after(page.find("camera-take").click)
    width, height = map(int, page.find("clusters").get_dom_attribute("viewBox").split()[2:])
    assert (width, height) != (448, 448)
    assert page.find("shoot").get_attribute("open") is None


def test_what_is_no_picture_is_said(browser, address, tmp_path) -> None:
    page = Page(browser, address, 1280, 900)
    (tmp_path / "letter.png").write_text("Dear all")
    page.find("file").send_keys(str(tmp_path / "letter.png"))
    page.wait(lambda: page.find("trouble").is_displayed())
    assert "cannot show that file" in page.find("trouble").text


def test_the_page_fits_a_phone(browser, address) -> None:
    page = Page(browser, address, 390, 844)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    for name in ("question", "send", "quality", "tokens", "exit", "draft", "answer", "camera"):
        element = page.find(name)
        assert element.is_displayed()
        assert element.location["x"] + element.size["width"] <= 390, name
    page.shoot("demo-ui-phone.png")


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
