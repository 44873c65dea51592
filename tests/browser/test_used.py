"""The dashboard used as a person would: sort, filter, search, read a feature, test a text, steer."""

import re

import pytest
from playwright.sync_api import expect

from saelab.features.store import FeatureStore


@pytest.fixture
def source(toy_run):
    (name,) = toy_run.sources()
    return f"/toy/{name}"


@pytest.fixture
def store(toy_run):
    (name,) = toy_run.sources()
    return FeatureStore(toy_run.source(name).path / "features.db")


def rows(page):
    return page.locator("[data-testid=features] tbody tr[data-index]")


def first_index(page) -> int:
    return int(rows(page).first.get_attribute("data-index"))


def test_the_run_shows_its_quality_beside_the_controls(page):
    page.goto("/")
    quality = page.get_by_test_id("quality")
    expect(quality).to_contain_text("FVU")
    expect(quality).to_contain_text("random")
    expect(quality).to_contain_text("pca")


def test_a_click_on_a_heading_sorts_the_table(page, source, store):
    page.goto(source)
    rows(page).first.wait_for()
    page.get_by_role("button", name="Sort by density").first.click()
    expect(page).to_have_url(re.compile("sort=density"))
    best = store.page(sort="density", descending=True, limit=1).items[0].index
    expect(rows(page).first).to_have_attribute("data-index", str(best))


def test_words_filter_the_table(page, source, store):
    word = store.page(sort="lift", descending=True, limit=1).items[0].top_tokens[0].strip()
    page.goto(f"{source}?q={word}")
    rows(page).first.wait_for()
    assert first_index(page) in {row.index for row in store.search(word, 256)}
    expect(page.get_by_test_id("total")).not_to_contain_text("256 features")


def test_more_rows_come_when_asked_for(page, source):
    page.goto(source)
    rows(page).first.wait_for()
    before = rows(page).count()
    page.get_by_role("button", name="Load more").click()
    expect(rows(page).nth(before)).to_be_visible()


def test_a_text_shows_the_features_that_fire_on_it(page, source):
    page.goto(source)
    page.get_by_label("Features that fire on a text").fill("the captain tied the rope in the harbour")
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_test_id("text-features").locator("mark.hot").first).to_be_visible()


def test_a_feature_shows_label_score_histogram_and_examples(page, source, store):
    best = store.page(sort="lift", descending=True, limit=1).items[0]
    page.goto(f"{source}/{best.index}")
    expect(page.get_by_test_id("label")).to_contain_text(best.label)
    expect(page.get_by_test_id("score").first).to_contain_text("auroc")
    expect(page.get_by_test_id("histogram").locator("svg, rect").first).to_be_visible()
    hot = page.get_by_test_id("examples").locator("mark.hot.peak").first
    expect(hot).to_have_attribute("title", re.compile(r"activation \d"))


def test_own_text_is_heated_where_the_feature_fires(page, source, store):
    best = store.page(sort="lift", descending=True, limit=1).items[0]
    top = store.feature(best.index).bands[0].examples[0]
    page.goto(f"{source}/{best.index}")
    page.get_by_label("A text to read with this feature").fill(" ".join(token.strip() for token in top.tokens))
    expect(page.get_by_test_id("own-text").locator("mark.hot").first).to_be_visible()


def test_next_and_previous_walk_through_the_features(page, source):
    page.goto(f"{source}/5")
    page.get_by_role("link", name="Next feature").click()
    expect(page).to_have_url(re.compile(r"/6$"))
    expect(page.get_by_role("link", name="Previous feature")).to_have_attribute("href", re.compile(r"/5$"))
    page.get_by_role("link", name="Previous feature").click()
    expect(page).to_have_url(re.compile(r"/5$"))


def steered(page, source, change: str):
    page.goto(f"{source}/steer?feature={change}&prompt=the captain&max_tokens=12")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_test_id("reading")).to_contain_text("KL", timeout=30_000)
    return page.get_by_test_id("text-base").inner_text(), page.get_by_test_id("text-steered").inner_text()


def test_a_strength_of_zero_writes_the_same_text(page, source):
    base, other = steered(page, source, "3:add:0:max_act")
    assert base == other
    assert len(base) > len("the captain")


def test_a_strong_change_writes_another_text_and_marks_where(page, source, store):
    best = store.page(sort="max", descending=True, limit=1).items[0]
    base, other = steered(page, source, f"{best.index}:add:6:max_act")
    assert base != other
    expect(page.get_by_test_id("difference-steered")).to_be_visible()


def test_the_slider_sets_the_strength(page, source):
    page.goto(f"{source}/steer?feature=3")
    slider = page.get_by_label("Strength", exact=True)
    slider.focus()
    before = page.get_by_label("Strength of feature 3 as a number").input_value()
    slider.press("ArrowRight")
    expect(page.get_by_label("Strength of feature 3 as a number")).not_to_have_value(before)


def test_the_keyboard_leads_from_the_table_to_a_feature(page, source):
    page.goto(source)
    rows(page).first.wait_for()
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(source + r"/\d+$"))


def test_a_feature_out_of_range_is_explained(page, source, console):
    page.goto(f"{source}/9999")
    expect(page.get_by_test_id("failure")).to_contain_text("9999")
    assert len(console) == 1
    assert "404" in console.pop()
