"""The page in Debian's Chromium."""

import shutil
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.serve.conftest import serving
from tests.serve.drawings import SEVEN, encoded, line
from tests.serve.handwriting import DRAWINGS, Drawing

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium: apt-get install chromium chromium-driver"),
]
FLAGS = ("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
         "disable-component-update", "disable-sync", "window-size=1280,900")  # fmt: skip


class Page:
    """What a person does on it."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, address: str) -> "Page":
        self.driver.get(address)
        return self

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def draw(self, drawing: Drawing) -> None:
        self.find(f"input[aria-label='{drawing.pen} pen'] + .dot").click()
        box = self.driver.execute_script("return document.querySelector('#pad').getBoundingClientRect()")
        pointer = PointerInput(drawing.pointer, drawing.pointer)
        actions = ActionBuilder(self.driver, mouse=pointer, duration=0)
        for stroke in drawing.strokes():
            points = [(round(box["x"] + x * box["width"]), round(box["y"] + y * box["height"])) for x, y in stroke]
            actions.pointer_action.move_to_location(*points[0]).pointer_down()
            for point in points[1:]:
                actions.pointer_action.move_to_location(*point)
            actions.pointer_action.pointer_up()
        actions.perform()

    def answers(self):
        """The digit of each network, once they have answered."""
        WebDriverWait(self.driver, 20).until(lambda _: self.said())
        return [card.text for card in self.driver.find_elements(By.CSS_SELECTOR, ".digit")]

    def said(self):
        return self.find("#status").get_attribute("textContent")

    def press(self, *keys) -> None:
        self.find("body").send_keys(*keys)

    def blank(self) -> bool:
        script = (
            "const c = document.querySelector('#pad');"
            "return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.every((x) => x === 255)"
        )
        return self.driver.execute_script(script)

    def lowest_ink(self) -> float:
        """How far down the sheet has ink, 0 to 1."""
        script = """
        const {width, height} = document.querySelector('#pad');
        const {data} = document.querySelector('#pad').getContext('2d').getImageData(0, 0, width, height);
        return data.findLastIndex((level) => level < 99) / 4 / width / height;
        """
        return self.driver.execute_script(script)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    options = Options()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(DRIVER))
    yield Page(driver)
    driver.quit()


@pytest.fixture(autouse=True)
def without_complaint(page):
    """Nothing refused by the page's own security policy, no error of a script."""
    page.driver.get_log("browser")
    yield
    severe = [entry for entry in page.driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert [entry for entry in severe if entry["source"] != "network"] == []  # answers 400


def test_at_least_nine_of_ten_drawn_digits_are_recognised(packaged, page):
    with serving() as address:
        page.open(address)
        found = {}
        for drawing in DRAWINGS:
            page.draw(drawing)
            page.find("#recognise").click()
            found[drawing.digit] = page.answers()
            page.find("#clear").click()
    assert sorted(found) == list(range(10))
    right = sum(answers == [str(digit)] for digit, answers in found.items())
    print(f"{right} of 10 drawn digits recognised: {found}")
    assert right >= 9, found


@pytest.mark.parametrize("pointer", ["mouse", "touch", "pen"])
def test_two_networks_answer_what_the_server_says(address, page, pointer):
    page.open(address)
    page.driver.execute_script("const {fetch} = window; window.fetch = (...sent) => fetch(...(window.sent = sent))")
    page.draw(Drawing(7, "medium", pointer, 0.6, 0.2, 0.2))
    answers = page.answers()
    said = page.driver.execute_async_script(
        "const done = arguments[0]; fetch(...window.sent).then((answer) => answer.json()).then(done)"
    )
    assert answers == [str(model["digit"]) for model in said["models"]]
    for card, model in zip(page.driver.find_elements(By.CSS_SELECTOR, ".card"), said["models"], strict=True):
        bars = card.find_elements(By.CSS_SELECTOR, ".bars li")
        assert [bar.text.split() for bar in bars] == [
            [str(digit), f"{100 * chance:.1f}%"] for digit, chance in enumerate(model["probabilities"])
        ]
        assert card.find_element(By.CSS_SELECTOR, ".best .name").text == str(model["digit"])
        assert model["name"] in page.said()
        peak = max(max(row) for row in model["attention"]["rollout"])
        assert f"peak {100 * peak:.1f}%" in card.find_element(By.CSS_SELECTOR, ".rollout + figcaption").text
    seen = page.driver.execute_script(
        "return [...document.querySelector('#seen').getContext('2d').getImageData(0, 0, 28, 28).data]"
    )
    assert seen[::4] == [value for row in said["seen"] for value in row]


def test_undo_clear_and_an_empty_sheet(address, page):
    page.open(address)
    page.find("#recognise").click()
    assert page.answers() == ["–", "–"] and "Nothing is drawn yet" in page.find("#status").text  # now in sight
    page.draw(Drawing(4, "thick", "mouse", 0.6, 0.2, 0.2))
    assert page.answers() and not page.blank()
    page.find("#undo").click()
    assert not page.blank()
    page.find("#undo").click()
    assert page.blank() and not page.said()
    page.draw(Drawing(4, "thick", "mouse", 0.6, 0.2, 0.2))
    page.find("#clear").click()
    assert page.blank() and not page.said() and page.find("#hint").is_displayed()


def test_all_of_it_by_keyboard(address, page, tmp_path):
    page.open(address)
    reached = []
    for _ in range(5):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        focused = page.driver.switch_to.active_element
        reached.append(focused.get_attribute("id") or focused.get_attribute("name"))
    assert reached == ["pen", "undo", "clear", "recognise", "file"]
    (tmp_path / "seven.png").write_bytes(encoded(line(*SEVEN)))
    page.find("#file").send_keys(str(tmp_path / "seven.png"))
    first = page.answers()
    assert first != ["–", "–"] and not page.blank()
    page.press(Keys.ESCAPE)
    assert page.blank() and not page.said()
    page.draw(Drawing(4, "thin", "mouse", 0.6, 0.2, 0.2))
    page.press(Keys.ENTER)
    page.answers()
    page.press(Keys.CONTROL, "z")
    assert not page.blank()
    page.press(Keys.CONTROL, "z")
    assert page.blank()


def give(page, way, name, kind):
    """Drop or paste a file that a canvas on the spot makes, of an upright stroke."""
    page.driver.execute_async_script(
        """
        const [way, name, kind, done] = arguments;
        const canvas = Object.assign(document.createElement('canvas'), {width: 2400, height: 1800});
        const paint = canvas.getContext('2d');
        const noise = paint.createImageData(2400, 1800);
        for (let i = 0; i < noise.data.length; i += 4) {
          const shade = 200 + (i * 2654435761 % 4294967296 >>> 28);
          noise.data.set([shade, shade, shade, 255], i);
        }
        paint.putImageData(noise, 0, 0);
        paint.fillRect(1150, 300, 160, 1200);
        canvas.toBlob((blob) => {
          const files = new DataTransfer();
          files.items.add(new File([blob], name, {type: kind}));
          const event = way === 'drop'
            ? new DragEvent('drop', {dataTransfer: files, bubbles: true, cancelable: true})
            : new ClipboardEvent('paste', {clipboardData: files, bubbles: true});
          document.body.dispatchEvent(event);
          done(blob.size);
        }, kind);
        """,
        way, name, kind,
    )  # fmt: skip


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_images_are_dropped_and_pasted_even_large_ones(address, page, way):
    page.open(address)
    give(page, way, "one.png", "image/png")
    assert page.answers() != ["–", "–"] and not page.blank(), page.said()


@pytest.mark.parametrize("width", [360, 800, 1280])
def test_nothing_sticks_out(address, page, width):
    device = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width < 500}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
    try:
        page.open(address).draw(Drawing(3, "medium", "touch", 0.6, 0.2, 0.2))
        page.answers()
        seen, whole = page.driver.execute_script(
            "const {clientWidth, scrollWidth} = document.documentElement; return [clientWidth, scrollWidth]"
        )
        assert whole == seen <= width
        assert page.lowest_ink() == pytest.approx(0.2 + 0.6 + 21 / 560, abs=0.02)  # a finger draws, it does not scroll
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_colours_are_those_of_the_reports():
    from vitbn.plotting import COLOURS

    style = (Path(__file__).parents[2] / "src/vitbn/serve/static/page.css").read_text()
    assert [f".reader-{n} {{ --colour: {colour}; }}" in style for n, colour in enumerate(COLOURS[:2], 1)] == [
        True,
        True,
    ]
