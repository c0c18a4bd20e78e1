"""The page's reader of CSV files, in a real browser: the same rule for times as the command line's."""

import pytest

from tests.browser import browser, visit
from tests.client.test_readings import GOOD, WRONG, table

pytestmark = pytest.mark.slow

READ = """async (text) => {
  const {readSeries} = await import(new URL("playground/csv.js", document.baseURI));
  try { const {start, values} = readSeries(text); return {start, first: values.map((row) => row[0])}; }
  catch (error) { return {told: error.message}; }
}"""


@pytest.fixture(scope="module")
def page(service):
    with browser() as chromium, visit(chromium, f"{service.url}/") as opened:
        yield opened


def test_the_page_reads_times_as_the_command_line_does(page):
    """Every case of the other reader's test: the same start, the same rows, the same line that is wrong."""
    for case, (times, start) in GOOD.items():
        found = page.evaluate(READ, table(times))
        assert found == {"start": start, "first": list(range(len(times)))}, case
    for case, (times, line, _) in WRONG.items():
        assert f"Line {line} " in page.evaluate(READ, table(times)).get("told", ""), case
