"""Every page is drawn, from this host alone and without an error."""

import pytest
from playwright.sync_api import expect


def test_the_start_page_lists_the_run(page):
    page.goto("/")
    expect(page.get_by_text("1-res-topk").first).to_be_visible()


@pytest.mark.parametrize("rest", ["", "/0", "/steer?feature=0", "/map", "/reports"])
def test_a_page_of_a_dictionary_is_drawn(page, toy_run, rest):
    (source,) = toy_run.sources()
    page.goto(f"/toy/{source}{rest}")
    expect(page.get_by_role("heading").first).to_be_visible()
    page.wait_for_load_state("networkidle")


def test_a_page_fits_the_width_of_the_screen(page, toy_run):
    (source,) = toy_run.sources()
    for path in (
        "/",
        f"/toy/{source}",
        f"/toy/{source}/0",
        f"/toy/{source}/steer?feature=0",
        f"/toy/{source}/map",
        f"/toy/{source}/reports",
    ):
        page.goto(path)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), f"{path} scrolls sideways"
