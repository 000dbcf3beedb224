"""The web page in a browser, served by a server process."""

import re
import time

import pytest
from fixtures.serving import BERLIN, MAX_MB, MEGAPIXELS, photo, running_server
from playwright.sync_api import expect

from roadwork.detector.detector import Detector

NASTY = "<img src=x onerror=document.title='run'>.jpg"
WIDTHS = [(390, 844), (1280, 900)]
TIMEOUT = 30_000


@pytest.fixture(scope="module")
def url(model_folder):
    with running_server(model_folder, "--max-mb", str(MAX_MB), "--max-megapixels", str(MEGAPIXELS)) as server:
        yield server.url


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photos with both labels and one in the abstention band, some with GPS, and files that are not photos."""
    folder = tmp_path_factory.mktemp("photos")
    files = {f"{seed}.jpg": photo(seed, BERLIN if seed % 2 else None, (400, 300)) for seed in range(6)}
    files |= {NASTY: photo(9), "notes.jpg": b"no photo", "half.jpg": photo(1)[:400], "empty.png": b""}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def open_page(browser, url):
    """Opens the page, and checks at the end: no requests to other hosts, no errors in the console."""
    contexts, elsewhere, errors = [], [], []

    def open_at(width, height, **options):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: errors.append(message.text) if is_error(message) else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda asked: elsewhere.append(asked.url) if not is_here(asked.url) else None)
        page.goto(url)
        page.wait_for_selector("body[data-ready]")
        return page

    def is_error(message):
        is_rejection = "status of 4" in message.text  # the browser logs each status that is not 200
        return message.type in ("error", "warning") and not is_rejection

    def is_here(asked):
        return asked.startswith((f"{url}/", f"blob:{url}/", "data:"))

    yield open_at
    for context in contexts:
        context.close()
    assert elsewhere == []
    assert errors == []


def card(page, name):
    return page.locator(".card", has=page.locator(".name", has_text=name))


@pytest.mark.parametrize(("width", "height"), WIDTHS)
def test_each_prediction_has_a_card(open_page, photos, model_folder, width, height):
    page = open_page(width, height)
    expect(page.locator("#model")).to_contain_text("45\u00a0%")
    page.set_input_files("#files", sorted(photos.iterdir()))
    expect(page.locator(".card:not(.waiting)")).to_have_count(10, timeout=TIMEOUT)
    detector = Detector.load(model_folder, "cpu")
    for seed in range(6):
        expected = detector((photos / f"{seed}.jpg").read_bytes())
        shown = card(page, f"{seed}.jpg")
        expect(shown).to_have_class(f"card {'unsure' if expected.abstain else expected.label.lower()}")
        share = 100 * expected.probability
        digits = 1 if abs(expected.probability - 0.45) < 0.01 else 0
        expect(shown.locator(".detail")).to_contain_text(f"{share:.{digits}f}\u00a0%")
        bar = shown.locator(".meter").bounding_box()
        assert shown.locator(".fill").bounding_box()["width"] == pytest.approx(bar["width"] * share / 100, abs=1.5)
        mark = shown.locator(".mark").bounding_box()
        assert mark["x"] + mark["width"] / 2 == pytest.approx(bar["x"] + 0.45 * bar["width"], abs=1.5)
    for name, reason in {"notes.jpg": "JPEG", "half.jpg": "damaged", "empty.png": "empty"}.items():
        expect(card(page, name)).to_have_class("card wrong")
        expect(card(page, name).locator(".detail")).to_contain_text(reason)
    expect(page.locator("#progress")).to_contain_text(re.compile(r"^10 photos: .*\b3 failed"))
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(("width", "height"), WIDTHS)
def test_map_shows_positions_and_links_to_the_card(open_page, photos, width, height):
    page = open_page(width, height)
    page.set_input_files("#files", [photos / "0.jpg", photos / "2.jpg"])
    expect(page.locator(".card:not(.waiting)")).to_have_count(2, timeout=TIMEOUT)
    expect(page.locator("#map")).to_be_hidden()
    page.set_input_files("#files", [photos / "1.jpg"])
    expect(page.locator("#map path.spot")).to_have_count(1, timeout=TIMEOUT)
    expect(page.locator("#map path.land").first).to_be_attached(timeout=TIMEOUT)
    page.locator("#map path.spot").click()
    expect(card(page, "1.jpg")).to_be_focused()
    expect(card(page, "1.jpg")).to_be_in_viewport()


@pytest.mark.parametrize(("width", "height"), WIDTHS)
def test_saliency_overlay_can_be_shown_and_hidden(open_page, photos, width, height):
    page = open_page(width, height)
    page.set_input_files("#files", [photos / "0.jpg"])
    shown, button = card(page, "0.jpg").locator(".look"), card(page, "0.jpg").locator(".look-one")
    button.click(timeout=TIMEOUT)
    expect(shown).to_be_visible(timeout=TIMEOUT)
    assert shown.evaluate("picture => picture.naturalWidth") == 400
    assert shown.bounding_box() == card(page, "0.jpg").locator("canvas").bounding_box()
    button.click()
    expect(shown).to_be_hidden()


def test_fifty_photos_are_sent_in_batches(open_page, tmp_path):
    for seed in range(50):
        (tmp_path / f"{seed:02}.jpg").write_bytes(photo(seed))
    page = open_page(1280, 900)
    batches = []
    page.on("request", lambda asked: batches.append(asked.url) if asked.url.endswith("/predict") else None)
    page.set_input_files("#files", sorted(tmp_path.iterdir()))
    expect(page.locator("#progress")).to_have_text(re.compile("^50 photos:"), timeout=TIMEOUT)
    expect(page.locator(".card.wrong")).to_have_count(0)
    assert len(batches) == 7  # of up to 8 photos
    page.locator("#clear").click()
    expect(page.locator(".card")).to_have_count(0)


def test_photos_can_be_dropped_anywhere(open_page):
    page = open_page(390, 844)
    transfer = page.evaluate_handle(
        """bytes => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "dropped.jpg", { type: "image/jpeg" }));
            return transfer;
        }""",
        list(photo(4)),
    )
    page.dispatch_event("footer", "drop", {"dataTransfer": transfer})
    expect(card(page, "dropped.jpg").locator(".detail")).to_contain_text("%", timeout=TIMEOUT)


def test_file_above_the_limit_is_reported_and_not_sent(open_page, tmp_path):
    (tmp_path / "large.jpg").write_bytes(bytes(MAX_MB * 1_000_000 + 1))
    page = open_page(390, 844)
    page.on("request", lambda asked: pytest.fail("sent") if asked.url.endswith("/predict") else None)
    page.set_input_files("#files", tmp_path / "large.jpg")
    expect(card(page, "large.jpg").locator(".detail")).to_contain_text("2 MB", timeout=TIMEOUT)


def test_file_name_is_not_parsed_as_html(open_page, photos):
    page = open_page(390, 844)
    page.set_input_files("#files", [photos / NASTY])
    expect(page.locator(".card:not(.waiting)")).to_have_count(1, timeout=TIMEOUT)
    expect(page.locator(".name")).to_have_text(NASTY)
    assert page.title() != "run"


def test_page_works_with_the_keyboard_alone(open_page, photos):
    page = open_page(1280, 900)
    choosers = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))  # noqa: PLW0108 -- it takes no builtin
    page.keyboard.press("Tab")
    expect(page.locator("#files")).to_be_focused()
    deadline = time.monotonic() + TIMEOUT / 1000
    while not choosers and time.monotonic() < deadline:  # a busy browser may not listen for choosers yet
        page.keyboard.press("Enter")
        page.wait_for_timeout(500)
    choosers[0].set_files([photos / "0.jpg"])
    expect(page.locator(".card:not(.waiting)")).to_have_count(1, timeout=TIMEOUT)
    for _ in range(2):
        page.keyboard.press("Tab")
    expect(page.locator(".look-one")).to_be_focused()


def test_page_waits_when_the_queue_is_full(open_page, photos):
    page = open_page(390, 844)
    asked = []

    def reject_once(route):
        asked.append(1)
        if len(asked) == 1:
            route.fulfill(status=429, headers={"retry-after": "1"}, json={"error": "full", "code": "queue_full"})
        else:
            route.continue_()

    page.route("**/predict", reject_once)
    page.set_input_files("#files", [photos / "0.jpg"])
    expect(card(page, "0.jpg").locator(".detail")).to_contain_text("%", timeout=TIMEOUT)
    assert len(asked) == 2


def test_dark_mode_changes_the_background(open_page):
    page = open_page(390, 844, color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 27)"
