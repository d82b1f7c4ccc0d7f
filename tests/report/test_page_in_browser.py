"""The page in a real browser: no error, no request, readable on a phone, hover works, hostile text stays text."""

import json
from pathlib import Path

import pytest

from counterlog.report.blocks import shown

CHROMIUM = next((p for p in ("/usr/bin/chromium", "/usr/bin/chromium-browser") if Path(p).exists()), "")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = ("<script>alert(1)</script>", "\"'><img src=x onerror=alert(2)>", '=HYPERLINK("http://x.test")')
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed (Debian package chromium)"),
]


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with api.sync_playwright() as play:
        running = play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield running
        running.close()


class Opened:
    """A page with everything that it said, asked for, or popped up."""

    def __init__(self, browser, path, *, width=1280, scheme="light"):
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
        )
        self.page = self.context.new_page()
        self.errors, self.requests, self.dialogs = [], [], []
        self.page.on(
            "console", lambda m: self.errors.append(m.text) if m.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("dialog", lambda d: (self.dialogs.append(d.message), d.dismiss()))
        self.page.route("**/*", self._refuse)
        self.page.goto(path.as_uri())
        self.page.wait_for_selector(".plot .main-svg")

    def _refuse(self, route):
        if route.request.url.startswith("file:") and route.request.is_navigation_request():
            route.continue_()
        else:
            self.requests.append(route.request.url)
            route.abort()

    def clean(self):
        return (self.errors, self.requests, self.dialogs) == ([], [], [])


@pytest.fixture(scope="module")
def path(report, tmp_path_factory):
    return report.write(tmp_path_factory.mktemp("page"))


@pytest.fixture
def open_page(browser):
    opened = []

    def open_(path, **options):
        opened.append(Opened(browser, path, **options))
        return opened[-1]

    yield open_
    for one in opened:
        one.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_opens_without_error_request_or_sideways_scroll(open_page, path, width, scheme):
    opened = open_page(path, width=width, scheme=scheme)
    for button in opened.page.query_selector_all("[data-choose]"):
        button.click()
        opened.page.wait_for_timeout(100)
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    opened.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.clean(), (opened.errors, opened.requests)


def test_hover_shows_the_estimate(open_page, path):
    opened = open_page(path)
    plot = opened.page.locator("#r0-values-plot")
    plot.scroll_into_view_if_needed()
    point = plot.locator(".scatterlayer .point").first
    point.hover(force=True)
    opened.page.wait_for_selector("#r0-values-plot .hoverlayer .hovertext")
    text = plot.locator(".hoverlayer").text_content()
    assert "interval" in text and "sales per decision" in text
    assert opened.clean()


def test_the_tables_hold_the_drawn_numbers(open_page, path):
    opened = open_page(path)
    drawn = opened.page.evaluate(
        """[...document.querySelectorAll('section.block')].filter(s => s.querySelector('.plot.js-plotly-plot'))
        .map(s => ({id: s.id,
          values: s.querySelector('.plot').data.filter(t => t.error_x || t.type === 'bar')
            .flatMap(t => t.type === 'bar' && t.base !== undefined ? Array.from(t.x) : Array.from(t.x)),
          cells: [...s.querySelectorAll('td[data-value]')].map(c => [c.dataset.value, c.textContent])}))"""
    )
    assert len(drawn) >= 5
    for section in drawn:
        cells = [float(value) for value, _ in section["cells"]]
        for value in section["values"]:
            assert any(value == pytest.approx(c, rel=1e-9, abs=1e-12) for c in cells), (section["id"], value)
        for value, text in section["cells"]:
            assert text == shown(json.loads(value) if "." not in value and "e" not in value else float(value))


def test_the_reward_chooser_shows_one_reward_at_a_time(open_page, path):
    opened = open_page(path)
    page = opened.page
    assert page.locator(".verdict:visible h1").all_text_contents() == ["Verdict on reward"]
    page.locator("[data-choose='1']").click()
    assert page.locator(".verdict:visible h1").all_text_contents() == ["Verdict on amount"]
    page.wait_for_selector("#r1-values-plot .main-svg")
    assert opened.clean()


def test_the_theme_can_be_switched_and_figures_follow(open_page, path):
    opened = open_page(path)
    ink = "document.querySelector('#r0-values-plot').layout.font.color"
    before, paper = (
        opened.page.evaluate(ink),
        opened.page.evaluate("getComputedStyle(document.body).backgroundColor"),
    )
    opened.page.locator("#theme").click()
    assert opened.page.evaluate(ink) != before
    assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") != paper
    assert opened.clean()


def test_hostile_names_stay_text_on_the_page_and_in_the_csv(open_page, simulated, tmp_path):
    from counterlog.report.decision_report import build

    log = simulated(600, names=HOSTILE)
    opened = open_page(build(log).write(tmp_path), width=390)
    assert opened.clean(), (opened.errors, opened.requests, opened.dialogs)
    page = opened.page
    assert page.locator("main img").count() == 0
    assert page.evaluate("document.querySelectorAll('main script:not([type])').length") == 0
    cells = page.locator("#r0-values td").all_text_contents()
    assert f"always:{HOSTILE[0]}" in cells and f"always:{HOSTILE[2]}" in cells
    ticks = "".join(page.locator("#r0-values-plot .ytick").all_text_contents())
    assert "<script>" in ticks
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    with page.expect_download() as download:
        page.locator("#r0-learnt button.csv").first.click()
    text = Path(download.value.path()).read_text()
    assert "'=HYPERLINK" in text and not any(line.startswith("=") for line in text.splitlines())


def test_the_policy_can_be_saved_from_the_page(open_page, path, report):
    opened = open_page(path)
    with opened.page.expect_download() as download:
        opened.page.locator("#r0-learnt a.download").click()
    assert Path(download.value.path()).read_bytes() == report.rewards[0].learnt.file_bytes()
    assert download.value.suggested_filename == report.rewards[0].learnt.file_name


def test_it_prints_every_reward_with_its_figures(open_page, path):
    opened = open_page(path, scheme="dark")
    opened.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    opened.page.emulate_media(media="print")
    assert opened.page.locator(".verdict:visible").count() == 2
    assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    opened.page.wait_for_selector("#r1-values-plot .main-svg")
    assert opened.page.evaluate("document.querySelector('#r0-values-plot').layout.font.color") == "#000000"
    opened.page.emulate_media(media="screen")
    opened.page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert opened.page.locator(".verdict:visible").count() == 1
    assert opened.clean()
