"""The report of a real sweep: its gallery shows the rows, and a real browser shows the report."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from rich.console import Console

from eval.asking.answering import load_data
from eval.baselines import WebP
from eval.rate.config import PictureGrid, RateConfig, Systems, TofcGrid
from eval.rate.report import gallery
from eval.rate.report.page import write
from eval.rate.senders import shrink
from eval.rate.sweep import sweep
from tofc.errors import UserError

CONFIG = RateConfig(
    name="tiny",
    checkpoint="",
    systems=Systems(
        tofc=(TofcGrid((1, 8), (12,)),),
        webp=(PictureGrid((5, 40), (0.125,)),),
        jpegxl=(PictureGrid((30,), (0.125,)),),
    ),
    limit=3,
    resamples=50,
    baseline_tokens=(12,),
)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, checkpoint_folder: Path) -> tuple[RateConfig, Path]:
    config = replace(CONFIG, checkpoint=str(checkpoint_folder))
    out = tmp_path_factory.mktemp("report") / "out"
    sweep(config, out, 1, Console(quiet=True))
    return config, out


def test_the_gallery_shows_bytes_and_answers_of_the_rows(swept) -> None:
    config, out = swept
    summary = json.loads((out / "summary.json").read_text())
    data = load_data(config.data)
    cards = gallery.choose_cards(out / "rows.parquet", summary, config, data)
    assert [card.name for card in cards] == [data[i].name for i in range(3)]
    rows = pyarrow.parquet.read_table(out / "rows.parquet").to_pylist()
    for card in cards:
        assert [sent.system for sent in card.sent] == ["tofc", "raw", "webp", "jpegxl"]
        assert len(set(card.assignment.ravel())) == 12
        for sent in card.sent:
            own = [
                row for row in rows
                if (row["system"], row["point"], row["picture"]) == (sent.system, sent.point.name, card.name)
            ]  # fmt: skip
            assert {sent.num_bytes} == {row["bytes"] for row in own}
            assert list(sent.answers) == [(row["answer"], row["right"], row["of"]) for row in own]
        webp = next(sent for sent in card.sent if sent.system == "webp")
        settings = dict(webp.point.settings)
        assert webp.file == WebP().encode(shrink(card.image, settings["scale"]), settings["quality"])
        # The very file stands in the page.
        assert base64.b64encode(webp.file).decode() in (out / "report.html").read_text()


def test_a_codec_is_shown_at_its_best_point_that_is_no_larger() -> None:
    points = [point for sender in CONFIG.senders() for point in sender.points if point.system == "webp"]
    own = {("webp", point.name): [{"bytes": size}] for point, size in zip(points, (200, 300), strict=True)}
    accuracy = {("webp", point.name): value for point, value in zip(points, (0.5, 0.9), strict=True)}
    small, large = points
    assert gallery._fairest(points, own, accuracy, 300) == large
    assert gallery._fairest(points, own, accuracy, 299) == small
    assert gallery._fairest(points, own, accuracy, 10) == small, "nothing is that small"
    worse = {key: 1 - value for key, value in accuracy.items()}
    assert gallery._fairest(points, own, worse, 300) == small


def test_a_report_is_made_again_from_finished_rows(swept, tmp_path: Path) -> None:
    config, done = swept
    out = shutil.copytree(done, tmp_path / "out")
    before = (out / "report.html").read_text()
    (out / "report.html").unlink()
    sweep(config, out, 1, Console(quiet=True))
    assert (out / "report.html").read_text() == before


def test_pictures_or_codecs_that_changed_are_refused(swept, monkeypatch: pytest.MonkeyPatch) -> None:
    config, out = swept
    summary = json.loads((out / "summary.json").read_text())
    other = replace(config.data, options={"split": "validation"})
    with pytest.raises(UserError, match="the data changed"):
        write(summary, config, load_data(other), out)
    monkeypatch.setattr(WebP, "encode", lambda *_: b"another file")
    with pytest.raises(UserError, match="another codec is installed now"):
        write(summary, config, load_data(config.data), out)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: the page is not looked at")
    binary, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if binary is None or driver is None:
        pytest.skip("no chromium with chromedriver here: the page is not looked at")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield window
    window.quit()


def open_page(browser: Any, out: Path, width: int) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    browser.get((out / "report.html").as_uri())


def point_at(browser: Any, selector: str) -> None:
    """Moves the mouse onto the first element that a selector finds."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    element = browser.find_element(By.CSS_SELECTOR, selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
    ActionChains(browser).move_to_element(element).perform()


def text_of(browser: Any, selector: str) -> str:
    return browser.execute_script("return document.querySelector(arguments[0]).innerText", selector)


@pytest.mark.parametrize("width", [1280, 390])
def test_the_chart_tells_a_points_numbers(swept, browser, width: int) -> None:
    _, out = swept
    open_page(browser, out, width)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    beyond = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.execute_script(beyond) == 0, "nothing is wider than the window"
    point_at(browser, "#chart g[data-system=jpegxl] .marker")
    tip = text_of(browser, ".tip")
    summary = json.loads((out / "summary.json").read_text())
    point = next(point for point in summary["points"] if point["system"] == "jpegxl")
    assert point["point"] in tip
    assert f"{point['bytes']['mean']:,.0f}" in tip
    accuracy = point["accuracy"]["yes_no"]
    assert f"{100 * accuracy['value']:.1f} %" in tip
    assert f"{100 * accuracy['low']:.1f} to {100 * accuracy['high']:.1f} %" in tip


def test_keys_walk_along_the_fronts_and_are_read_aloud(swept, browser) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    _, out = swept
    open_page(browser, out, 1000)
    chart = browser.find_element(By.CSS_SELECTOR, "#chart svg")
    chart.send_keys(Keys.ARROW_RIGHT)
    spoken = browser.find_element(By.CSS_SELECTOR, "[aria-live]")
    assert spoken.get_attribute("textContent").startswith("TOFC, quality ")
    chart.send_keys(Keys.ARROW_DOWN)
    assert not spoken.get_attribute("textContent").startswith("TOFC")
    chart.send_keys(Keys.ESCAPE)
    assert browser.execute_script("return document.querySelector('.tip').hidden")


def test_systems_and_questions_can_be_left_out(swept, browser) -> None:
    from selenium.webdriver.common.by import By

    _, out = swept
    open_page(browser, out, 1000)
    button = browser.find_element(By.CSS_SELECTOR, ".legend [data-system=webp]")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert not browser.find_elements(By.CSS_SELECTOR, "#chart g[data-system=webp]")
    shown = "return [...document.querySelectorAll('.answers tbody tr')].filter((row) => !row.hidden).length"
    rows = pyarrow.parquet.read_table(out / "rows.parquet").to_pylist()
    browser.find_element(By.CSS_SELECTOR, "#rows input[value=all]").click()
    raw = [row for row in rows if row["system"] == "raw"]
    assert browser.execute_script(shown) == len(raw)
    browser.find_element(By.CSS_SELECTOR, "#rows input[value=wrong]").click()
    point = gallery.tofc_point(json.loads((out / "summary.json").read_text()))
    wrong = [row for row in rows if (row["system"], row["point"]) == point and row["right"] < row["of"]]
    assert browser.execute_script(shown) == len(wrong)


def test_every_picture_is_drawn(swept, browser) -> None:
    _, out = swept
    open_page(browser, out, 1000)
    script = "return [...document.images].map((image) => image.complete ? image.naturalWidth : -1)"
    assert min(browser.execute_script(script)) >= 56
