"""What the library found out about features, on its pages: the map, reports, scores, documents, search by meaning."""

import re

import numpy as np
import pytest
from playwright.sync_api import expect

from saelab.describe import read_report
from saelab.features.postings import Postings
from saelab.features.store import FeatureStore
from saelab.lab import Lab
from saelab.records import SearchHit
from saelab.values import to_dict


@pytest.fixture
def source(served):
    (name,) = served.sources()
    return f"/toy/{name}"


@pytest.fixture
def store(served):
    return FeatureStore(served.source(served.sources()[0]).path / "features.db")


COLOURS = """canvas => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const found = new Set();
  for (let i = 0; i < data.length; i += 4) if (data[i + 3] === 255) found.add(`${data[i]},${data[i + 1]},${data[i + 2]}`);
  return found.size;
}"""


def test_the_map_draws_its_points_in_the_colours_asked_for(page, source, store):
    page.goto(f"{source}/map")
    scatter = page.get_by_test_id("scatter")
    expect(scatter).to_have_attribute("aria-label", re.compile(r"256 features by density"))
    page.wait_for_function(f"({COLOURS})(document.querySelector('[data-testid=scatter]')) >= 6")
    page.get_by_label("Colour by").select_option("tag")
    expect(page).to_have_url(re.compile("colour=tag"))
    for tag in {row.tags[0] for row in store.page(limit=256).items if row.tags}:
        expect(page.get_by_test_id("legend")).to_contain_text(tag)


def test_a_point_of_the_map_leads_to_its_feature(page, source, store):
    page.goto(f"{source}/map?feature=7")
    chosen = page.get_by_test_id("chosen")
    expect(chosen).to_contain_text(store.feature(7).label.text)
    page.get_by_test_id("scatter").press("ArrowRight")
    expect(chosen.get_by_role("link")).not_to_have_attribute("href", re.compile("/7$"))
    target = chosen.get_by_role("link").get_attribute("href")
    page.get_by_test_id("scatter").press("Enter")
    expect(page).to_have_url(re.compile(re.escape(target) + "$"))


def test_a_click_on_a_point_opens_it(page, source, store):
    places = store.map()
    x, y = np.array(places.x), np.array(places.y)
    west, east, south, north = (np.sort(axis)[end] for axis in (x, y) for end in (1, -2))  # half a percent may lie outside
    middle = int(np.hypot(x - (west + east) / 2, y - (south + north) / 2).argmin())
    page.goto(f"{source}/map")
    scatter = page.get_by_test_id("scatter")
    box = scatter.bounding_box()
    scale = min((box["width"] - 26) / (east - west), (box["height"] - 26) / (north - south))
    left = box["width"] / 2 + (x[middle] - (west + east) / 2) * scale
    top = box["height"] / 2 - (y[middle] - (south + north) / 2) * scale
    scatter.hover(position={"x": left, "y": top})
    link = page.get_by_test_id("chosen").get_by_role("link")
    expect(link).to_have_attribute("href", f"{source}/{middle}")
    scatter.click(position={"x": left, "y": top})
    expect(page).to_have_url(re.compile(f"{source}/{middle}$"))


def test_a_map_that_was_not_made_says_what_makes_one(page, source):
    empty = {"x": [], "y": [], "density": [], "score": [], "tag": [], "tags": []}
    page.route("**/map", lambda route: route.fulfill(json=empty) if "/api/" in route.request.url else route.fallback())
    page.goto(f"{source}/map")
    expect(page.get_by_text("saelab collect")).to_be_visible()


def test_a_report_shows_value_interval_null_and_what_it_does_not_tell(page, source, served):
    measure = read_report(served.source(served.sources()[0]), "core").measures[0]
    page.goto(f"{source}/reports")
    report = page.get_by_test_id("report")
    row = report.get_by_test_id("measures").locator("tbody tr").first
    expect(row).to_contain_text(measure.name)
    expect(row).to_contain_text(re.compile(r"\[.+, .+\]"))
    expect(row).to_contain_text(measure.null_is)
    report.get_by_text("What the numbers are").click()
    expect(report.get_by_role("columnheader", name="does not tell")).to_be_visible()
    report.get_by_text("Tables and figures").click()
    expect(report.get_by_test_id("report-table").first).to_contain_text("kind of token")
    report.get_by_test_id("figure").first.scroll_into_view_if_needed()
    expect(report.locator(".plot svg").first).to_be_visible()


def test_without_reports_the_command_is_named(page, source):
    page.route("**/api/**/reports", lambda route: route.fulfill(json=[]))
    page.goto(f"{source}/reports")
    expect(page.get_by_text("saelab analyse RUN core")).to_be_visible()


def test_every_score_of_a_feature_is_on_its_page(page, source, store):
    best = store.page(sort="lift", descending=True, limit=1).items[0]
    scores = store.feature(best.index).label.scores
    page.goto(f"{source}/{best.index}")
    shown = page.get_by_test_id("score")
    expect(shown.first).to_contain_text(f"{scores[0].value:.2f}")
    expect(shown.first).to_contain_text(f"{scores[0].null:.2f}")
    expect(shown.first).to_contain_text(scores[0].scorer)
    page.get_by_role("button", name=re.compile("Show . more")).click()
    expect(shown).to_have_count(len(scores))


def test_documents_that_fire_a_feature_are_listed_when_asked_for(page, source, served, store):
    best = store.page(sort="density", descending=True, limit=1).items[0]
    lab = Lab(served)
    total = len(set(Postings(lab.folder.path, lab.corpus).feature(best.index).document.tolist()))
    page.goto(f"{source}/{best.index}")
    documents = page.get_by_test_id("documents")
    documents.get_by_role("heading", name="Documents").click()
    expect(documents).to_contain_text(f"in {total:,} of the {lab.corpus.num_documents:,} documents")
    expect(documents.locator("mark.peak").first).to_be_visible()
    items = documents.get_by_role("listitem")
    expect(items).to_have_count(10)
    documents.get_by_role("button", name="More documents").click()
    expect(items).to_have_count(20)


def test_a_search_by_meaning_says_how_to_get_it_where_it_is_missing(page, source, console):
    page.goto(source)
    page.get_by_role("combobox", name="Search by").select_option("meaning")
    page.get_by_label("Search by what labels mean").fill("animals")
    expect(page.get_by_role("alert")).to_contain_text("saelab embed")  # with the encoder installed and without
    assert len(console) == 1
    assert "404" in console.pop()


def test_a_search_by_meaning_lists_the_closest_labels_with_their_similarity(page, source, store):
    hits = [SearchHit(id=store.id(row.index), row=row, similarity=0.5) for row in store.page(limit=2).items]
    asked: list[str] = []

    def answer(route):
        asked.append(route.request.url)
        route.fulfill(json=[to_dict(hit) for hit in hits])

    page.route("**/api/v1/search?*", answer)  # the encoder is not installed where the tests run
    page.goto(f"{source}?q=animals&mode=meaning")
    table = page.get_by_test_id("features")
    expect(table.locator("tbody tr")).to_have_count(2)
    expect(table.locator("[data-name=similarity]").first).to_have_text("0.50")
    assert "mode=meaning" in asked[0]
    assert "source=1-res-topk" in asked[0]
