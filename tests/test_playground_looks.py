"""The playground for everyone: two languages, every size, light and dark, keyboard alone, behind keys, on a bad day."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser import PHONE, Hand, browser, ready, serious, shoot, visit
from tests.digit_strokes import DIGITS
from tests.server import Server

pytestmark = pytest.mark.slow

PANELS = ("digit", "text", "series", "train", "models")
HD = {"width": 1920, "height": 1080}
SECRET = "a-secret-for-the-page"
DIGIT = "#digit-answers .digit-out >> nth=0"


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


def go(page, panel):
    page.click(f'header nav a[href="#{panel}"]')
    expect(page.locator(f"[data-panel={panel}]")).to_be_visible()


def fill(page, panel):
    """Bring a panel to what it shows when it is used."""
    go(page, panel)
    match panel:
        case "digit":
            Hand(page).draw(*DIGITS[5])
            expect(page.locator(DIGIT)).to_have_text("5")
        case "text":
            page.click("#text-samples button >> nth=0")
            expect(page.locator("#text-words .word")).not_to_have_count(0)
        case "series":
            page.click("#series-tools .primary")
            expect(page.locator("#series-chart .band")).to_have_count(1)
        case "train":
            expect(page.locator("#train-go")).to_be_enabled()
        case "models":
            expect(page.locator("#models-table tbody")).to_have_count(10)


@pytest.mark.parametrize(("size", "scheme"), [(PHONE, "dark"), (HD, "light")])
def test_every_panel_fits_and_axe_finds_no_serious_fault(chromium, service, size, scheme):
    """At 360 px in the dark and at 1,920 px in the light: nothing wider than the page, nothing axe calls serious."""
    with visit(chromium, f"{service.url}/", viewport=size, color_scheme=scheme) as page:
        for panel in PANELS:
            fill(page, panel)
            wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wider <= 0, (panel, wider)
            assert not serious(page), panel
            if size is PHONE and panel == "digit":
                shoot(page, "phone", whole=True)


def test_one_switch_makes_it_chinese_and_it_stays_so(chromium, service):
    """Every word of every panel has its Chinese (the page warns of one that lacks it), also after a reload."""
    with visit(chromium, f"{service.url}/", color_scheme="dark") as page:
        page.click("#language")
        expect(page.locator("html")).to_have_attribute("lang", "zh-Hans")
        for panel in PANELS:
            fill(page, panel)
        expect(page.locator("h1 >> visible=true")).to_have_text("模型与版本")
        page.reload()
        ready(page)
        expect(page.locator("#title-models")).to_have_text("模型与版本")
        shoot(page, "chinese", whole=True)
        page.click("#language")
        expect(page.locator("#title-models")).to_have_text("Models and versions")


def test_light_and_dark_follow_the_system_until_they_are_chosen(chromium, service):
    """The switch turns the colours round, and a reload keeps them."""
    with visit(chromium, f"{service.url}/", color_scheme="dark") as page:
        ground = "getComputedStyle(document.body).backgroundColor"
        dark = page.evaluate(ground)
        page.click("#theme")
        light = page.evaluate(ground)
        assert light != dark
        page.reload()
        ready(page)
        assert page.evaluate(ground) == light


def test_everything_can_be_done_with_the_keyboard_alone(chromium, service):
    """Skip link, panels, a digit drawn with arrows and Space, undo, a headline, a question that is turned down."""
    with visit(chromium, f"{service.url}/") as page:
        press = page.keyboard.press
        press("Tab")
        expect(page.locator("#skip")).to_be_focused()
        press("Enter")
        expect(page.locator("main")).to_be_focused()
        press("Tab")
        expect(page.locator("#pad")).to_be_focused()
        draw_one(page)
        expect(page.locator(DIGIT)).to_have_text("1")
        press("Backspace")
        expect(page.locator(DIGIT)).to_have_text("–")
        tab_to(page, 'header nav a[href="#text"]', "Shift+Tab")
        press("Enter")
        tab_to(page, "#text-input")
        page.keyboard.type("Striker scores twice in cup final")
        expect(page.locator("#text-answer output")).to_have_text("Sports")
        tab_to(page, 'header nav a[href="#train"]', "Shift+Tab")
        press("Enter")
        tab_to(page, "#train-epochs")
        press("Control+a")
        page.keyboard.type("0")
        expect(page.locator("#train-go")).to_be_disabled()


def draw_one(page):
    """A vertical line through the middle, by arrow keys."""
    press = page.keyboard.press
    for _ in range(4):
        press("Shift+ArrowUp")
    press(" ")
    expect(page.locator("#announce")).to_have_text("The pen is down.")
    for _ in range(8):
        press("Shift+ArrowDown")
    press(" ")


def tab_to(page, selector, key="Tab"):
    """Tab until it has the focus, which must be visible."""
    for _ in range(60):
        page.keyboard.press(key)
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
            return
    raise AssertionError(f"{selector} cannot be reached")


def test_a_full_queue_is_counted_down_and_tried_again(chromium, service):
    """429 with Retry-After: the service's own sentence, a countdown, then the answer."""
    refused = []

    def refuse(route):
        if len(refused) < 2:
            refused.append(route)
            problem = {"detail": "digit-cnn has 2048 rows waiting.", "code": "queue_full"}
            route.fulfill(status=429, json=problem, headers={"Retry-After": "2"})
        else:
            route.continue_()

    with visit(chromium, f"{service.url}/", expected=("429",)) as page:
        page.route("**/predict/digit*", refuse)
        Hand(page).draw([(140, 60), (140, 220)])
        notice = page.locator("#digit-notice")
        expect(notice).to_have_text(re.compile(r"digit-cnn has 2048 rows waiting\. Trying again in [12] s\."))
        expect(page.locator(DIGIT)).to_have_text("1")
        expect(notice).to_have_text("")


def test_the_page_asks_for_a_key_and_keeps_it_for_the_tab_only(chromium, tmp_path):
    """With keys on: a wrong key is told so, a right one opens, a reload keeps it, another tab does not have it."""
    keys = f"reader:predict:{SECRET}-only,owner:predict+admin:{SECRET}"
    with Server(tmp_path, workers=1, api_keys=keys, ready=False) as server:
        with visit_closed(chromium, server.url) as page:
            expect(page.locator("#key-why")).to_contain_text("asks who is calling")
            give_key(page, "a-key-that-nobody-has")
            expect(page.locator("#key-why")).to_have_text("This API key is not known here.")
            give_key(page, f"{SECRET}-only")
            ready(page)
            Hand(page).draw([(140, 60), (140, 220)])
            expect(page.locator(DIGIT)).to_have_text("1")
            expect(page.locator("#digit-curl code")).to_contain_text('-H "Authorization: Bearer $NEUROSERVE_KEY"')
            assert SECRET not in page.content()
            go(page, "train")
            expect(page.locator("#key-why")).to_have_text("The key 'reader' lacks the scope 'admin' that this needs.")
            give_key(page, SECRET)
            expect(page.locator("#train-go")).to_be_enabled()
            page.reload()
            ready(page)
            expect(page.locator("#train-go")).to_be_enabled()
            go(page, "models")
            with page.expect_download() as saved:
                page.click('[data-model="digit-cnn"] a[data-report]')
            assert saved.value.suggested_filename.startswith("digit-cnn-")
            assert "digit-cnn" in saved.value.path().read_text("utf-8")
            assert page.evaluate("localStorage.length") == 0
            page.click("#key-forget")
            expect(page.locator("#key-dialog")).to_be_visible()
        with visit_closed(chromium, server.url) as page:
            expect(page.locator("#key-dialog")).to_be_visible()


def visit_closed(chromium, url):
    return visit(chromium, f"{url}/", expected=("401", "403"), wait=False)


def give_key(page, key):
    page.fill("#key-field", key)
    page.keyboard.press("Enter")


@pytest.mark.parametrize(("path", "shown"), [("docs", ".opblock-summary"), ("redoc", "[data-section-id]")])
def test_the_documentation_pages_work_without_another_host(chromium, service, path, shown):
    """Every call is listed; no complaint, no policy broken, nothing fetched from elsewhere (asserted by the visit)."""
    with visit(chromium, f"{service.url}/{path}", wait=False) as page:
        expect(page.locator(shown).first).to_be_visible()
        assert page.locator(shown).count() > 15
        page.click('header nav a[href="./"]')
        ready(page)


OVERLAPS = """() => {
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const box = (node) => {
    const range = document.createRange();
    range.selectNodeContents(node);
    return range.getBoundingClientRect();
  };
  const tabs = all(".bar nav a"), rows = all(".bar-row, .dots > div").filter((row) => row.offsetParent);
  const texts = [...tabs, ...rows.flatMap((row) => all(".name, .value", row))]
    .filter((node) => node.textContent).map((node) => ({ text: node.textContent, ...box(node).toJSON() }));
  const over = (a, b) =>
    a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  return [
    ...tabs.filter((tab) => box(tab).height > 30).map((tab) => tab.textContent),
    ...texts.flatMap((a, i) => texts.slice(i + 1).filter((b) => over(a, b)).map((b) => `${a.text} / ${b.text}`)),
  ];
}"""
SURE = """for (const value of document.querySelectorAll(".bar-row .value"))
  if (value.textContent) value.textContent = "100.0%";"""


@pytest.mark.parametrize("size", [PHONE, HD], ids=["phone", "desktop"])
def test_no_text_is_printed_over_another_in_a_wide_font(chromium, service, size):
    """Names and `100.0%` in DejaVu Sans, or any font as wide, have room in every list of bars and in the tabs."""
    with visit(chromium, f"{service.url}/", viewport=size) as page:
        wide = (
            "s => { s.setProperty('--sans', '\\'DejaVu Sans\\', Verdana'); s.setProperty('letter-spacing', '.03em') }"
        )
        page.evaluate(f"({wide})(document.documentElement.style)")
        for panel in ("digit", "text", "models"):
            fill(page, panel)
            page.evaluate(SURE)
            assert page.evaluate(OVERLAPS) == [], panel
