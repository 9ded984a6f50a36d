import base64
import math
import re
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from pyro_jarzynski.ebm.history import COLUMNS
from pyro_jarzynski.errors import OutputError
from pyro_jarzynski.report.html import Table, write_report
from pyro_jarzynski.report.plots import save_figure
from tests.report.histories import made_up

EVIL = "<script>alert('1')</script>\" onload=\"x"
VOID = {"meta", "img", "link", "br"}


class Page(HTMLParser):
    """Reads a page, and checks that its tags nest."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self._open = [], [], []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def named(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture
def picture(tmp_path):
    return save_figure(Figure(figsize=(1, 1)), tmp_path / "picture.png")


@pytest.fixture
def write(tmp_path, picture):
    def written(**arguments):
        usual = {
            "title": "A run",
            "summary": {"Test NLL": "78.2 nats"},
            "settings": {"learning rate": "0.01"},
            "figures": {"The course of the training": picture},
            "history": made_up(),
        }
        path = write_report(tmp_path / "report.html", **(usual | arguments))
        return path.read_text(encoding="utf-8")

    return written


def test_page_stands_alone(write):
    text = write()
    page = Page(text)
    assert not re.search(r"https?:|url\(|@import", text)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    sources = [a[name] for _, a in page.tags for name in ("src", "href") if name in a]
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)


def test_page_is_html5_for_light_dark_and_narrow_screens(write):
    text = write()
    assert text.startswith("<!DOCTYPE html>")
    assert "prefers-color-scheme: dark" in text
    metas = Page(text).named("meta")
    assert {"charset": "utf-8"} in metas
    assert any(meta.get("name") == "viewport" for meta in metas)


def test_picture_is_embedded_with_caption_and_alternative(write, picture):
    text = write()
    (image,) = Page(text).named("img")
    assert base64.b64decode(image["src"].partition(",")[2]) == picture.read_bytes()
    assert image["alt"] == "The course of the training"
    assert "<figcaption>The course of the training</figcaption>" in text


@pytest.mark.parametrize(
    "place", ["title", "summary", "settings", "figures", "notes", "warnings", "tables"]
)
def test_strings_are_escaped(place, write, picture):
    given = {
        "title": EVIL,
        "summary": {EVIL: EVIL},
        "settings": {EVIL: EVIL},
        "figures": {EVIL: picture},
        "notes": [EVIL],
        "warnings": [EVIL],
        "tables": {EVIL: Table({EVIL: EVIL}, [{EVIL: EVIL}])},
    }[place]
    text = write(**{place: given})
    page = Page(text)
    assert "<script" not in text
    assert not page.named("script")
    assert all("onload" not in attributes for _, attributes in page.tags)
    assert EVIL in "".join(page.words)


def test_summary_comes_first_and_settings_are_listed(write):
    text = write(notes=["Mind the gap."])
    places = ["78.2 nats", "Mind the gap.", "<figure>", "learning rate", "History"]
    found = [text.index(place) for place in places]
    assert found == sorted(found)


def test_last_rows_and_the_meaning_of_the_columns_are_shown(write):
    text = write(history=made_up(num_rows=100))
    page = Page(text)
    assert "The last 12 of 100 rows." in text
    assert text.count("<tr><td>") == 12
    assert "<td>1000</td>" in text
    assert "<td>880</td>" not in text
    assert all(meaning in page.words for meaning in COLUMNS.values())


def test_columns_without_numbers_are_left_out(write):
    text = write(history=made_up(without=["validation_nll"]))
    assert "validation_nll" not in text
    assert "train_nll" in text


def test_single_missing_number_is_a_dash(write):
    assert "<td>–</td>" in write(history=made_up(2, validation_nll=[math.nan, 1.0]))


@pytest.mark.parametrize("history", [None, made_up(num_rows=0)], ids=["none", "empty"])
def test_history_can_be_left_out(history, write):
    text = write(history=history)
    assert "History" not in text
    Page(text)


def test_empty_parts_leave_no_headings(write):
    text = write(summary={}, settings={}, figures={}, history=None)
    assert not Page(text).named("h2")


def small_table(num_rows=3, **shown):
    columns = {"name": "what it is", "mean": "its mean", "none": "never known"}
    rows = [
        {"name": f"x[{k}]", "mean": k + 0.25, "none": math.nan} for k in range(num_rows)
    ]
    return Table(columns, rows, **shown)


def test_history_can_be_a_table(write):
    text = write(history=small_table())
    assert "<h2>History</h2>" in text
    assert "All 3 rows." in text
    assert "<tr><td>x[1]</td><td>1.25</td></tr>" in text
    assert "<dt><code>mean</code></dt><dd>its mean</dd>" in text
    assert "never known" not in text
    Page(text)


def test_tables_stand_above_the_history(write):
    text = write(tables={"Latents": small_table(5, first=2)})
    places = ["Settings", "<h2>Latents</h2>", "The first 2 of 5 rows.", "<h2>History</h2>"]
    found = [text.index(place) for place in places]
    assert found == sorted(found)
    assert "x[1]" in text
    assert "x[2]" not in text
    Page(text)


@pytest.mark.parametrize(
    ("shown", "names", "told"),
    [
        ({}, ["x[0]", "x[1]", "x[2]"], "All 3 rows."),
        ({"first": 2}, ["x[0]", "x[1]"], "The first 2 of 3 rows."),
        ({"last": 2}, ["x[1]", "x[2]"], "The last 2 of 3 rows."),
        ({"first": 3}, ["x[0]", "x[1]", "x[2]"], "All 3 rows."),
    ],
    ids=["all", "first", "last", "enough"],
)
def test_part_of_a_table_is_told(shown, names, told):
    table = small_table(**shown)
    assert [row["name"] for row in table.shown] == names
    assert table.told == told


def test_empty_table_leaves_no_heading(write):
    text = write(tables={"Latents": small_table(0)}, history=small_table(0))
    assert "Latents" not in text
    assert "History" not in text


def test_warnings_stand_between_summary_and_notes(write):
    text = write(warnings=["Do not trust it."], notes=["Mind the gap."])
    assert '<p class="warning">Do not trust it.</p>' in text
    places = ["78.2 nats", "Do not trust it.", "Mind the gap.", "<figure>"]
    found = [text.index(place) for place in places]
    assert found == sorted(found)
    assert 'class="warning"' not in write()


def test_missing_figure_is_an_error_and_keeps_the_old_page(write, tmp_path):
    old = write()
    with pytest.raises(OutputError, match=r"`figures\['Lost'\]` must be a PNG .*lost\.png"):
        write(figures={"Lost": tmp_path / "lost.png"})
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == old


def test_figure_that_is_no_png_is_an_error(write, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(OutputError, match=r"must be a PNG file, .*text\.png is not"):
        write(figures={"Text": tmp_path / "text.png"})


def test_failure_to_replace_leaves_nothing_behind(tmp_path):
    target = tmp_path / "report.html"
    target.mkdir()
    with pytest.raises(OutputError, match="`path` must be a file that can be written"):
        write_report(target, title="", summary={}, settings={}, figures={}, history=None)
    assert list(tmp_path.iterdir()) == [target]


def test_directory_that_is_not_there_is_an_error(tmp_path):
    path = tmp_path / "nowhere" / "report.html"
    with pytest.raises(OutputError, match="nowhere"):
        write_report(path, title="", summary={}, settings={}, figures={}, history=None)
