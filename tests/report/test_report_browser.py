"""The report in a browser without a network: at phone and desktop width, and in print."""

import pytest
from fixtures.report_runs import copy_run, make_hostile, random_logits, rewrite

from roadwork.report.report import write_report

# Elements that extend beyond the page.
CUT_OFF = """() => [...document.querySelectorAll("main *:not(svg *)")].filter((element) => {
  const box = element.getBoundingClientRect();
  return box.width > 0 && (box.right > innerWidth + 1 || box.left < -1);
}).map((element) => element.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def pages(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    plain = rewrite(copy_run(tiny_run, folder / "plain"), random_logits)
    hostile = make_hostile(copy_run(tiny_run, folder / "hostile"))
    return {
        "plain": write_report([plain]),
        "hostile": write_report([hostile]),
        "comparison": write_report([plain, hostile], path=folder / "comparison.html"),
    }


@pytest.mark.parametrize("name", ["plain", "hostile", "comparison"])
@pytest.mark.parametrize(("width", "media"), [(390, "screen"), (1280, "screen"), (700, "print")])
def test_report_fits_without_errors_or_requests(browser, pages, name, width, media):
    messages, requests = [], []
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.emulate_media(media=media)
    page.goto(pages[name].as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CUT_OFF) == []
    assert page.evaluate("window.pwned") is None
    assert page.evaluate("getComputedStyle(document.querySelector('h1')).fontSize") != "32px"  # the style applies
    assert all(page.evaluate("[...document.images].map((image) => image.complete && image.naturalWidth > 0)"))
    assert messages == []
    assert [url for url in requests if not url.startswith("data:")] == [pages[name].as_uri()]
    page.close()
