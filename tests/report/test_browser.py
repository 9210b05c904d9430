"""Pages opened in a real browser: what the script adds to them, and how they look."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from tests.browser import Browser, chromium
from tests.report.made_up import TASKS, evaluate_again, make_run
from tests.videos import numbered_frames, write_video

from kinema.report.page import write_page
from kinema.training.run_folder import Run
from kinema.types import Heads

MANY: Heads = {"action": tuple(f"class {i}" for i in range(101))}
EVIL: Heads = {"action": ("</script><img src=x>", "<b>&amp;", "a\"b'c\u2028")}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two tasks of few classes, with clips that play."""
    folder = tmp_path_factory.mktemp("few")
    video = write_video(folder / "v.mp4", numbered_frames(12, width_px=96, height_px=72), fps=12)
    run = make_run(folder / "run", heads=TASKS, skill=1.0, videos=[video], num_clips=60)
    write_page(run.folder)
    return run


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = make_run(tmp_path_factory.mktemp("many") / "run", heads=MANY, num_clips=600, skill=2.0, evaluated=("test",))
    write_page(run.folder)
    return run


def test_a_cell_tells_what_it_is_and_lists_its_clips(browser: Browser, few: Run) -> None:
    browser.open(few.report)
    cells = clips_of_cells(few, "verb")
    for (true, answer), clip_ids in cells.items():
        names = TASKS["verb"]
        cell = browser.one(
            f'figure[data-matrix="0"] rect[data-true="{names.index(true)}"][data-answer="{names.index(answer)}"]'
        )
        browser.hover(cell)
        (tip,) = browser.texts(".tip")
        total = sum(len(ids) for (of, _), ids in cells.items() if of == true)
        assert tip.startswith(f"{true} called {answer}: {len(clip_ids)} of {total} (")
        browser.click(cell)
        assert browser.texts('figure[data-matrix="0"] .cell-list li') == [
            f"{100 * share:.1f}\xa0% {clip_id}" for share, clip_id in clip_ids
        ]
    shown = {ids[0][1] for ids in cells.values()}
    assert len(cells) == len(shown) > 5
    assert browser.messages() == []


def test_a_cell_is_reached_by_keyboard(browser: Browser, few: Run) -> None:
    browser.open(few.report)
    drawing = browser.one('figure[data-matrix="1"] svg.asked')
    drawing.send_keys(Keys.ARROW_RIGHT)
    (tip,) = browser.texts(".tip")
    assert tip.startswith("cup called door: ")
    drawing.send_keys(Keys.ENTER)
    listed = browser.texts('figure[data-matrix="1"] .cell-list li')
    assert [text.partition("% ")[2] for text in listed] == [i for _, i in clips_of_cells(few, "noun")["cup", "door"]]


def test_clips_play_on_the_page_and_in_a_cell(browser: Browser, few: Run) -> None:
    browser.open(few.report)
    code = """const found = [...document.querySelectorAll(arguments[0])];
        await Promise.all(found.map((image) => image.decode()));
        return found.map((image) => [image.naturalWidth, image.naturalHeight, image.currentSrc.slice(0, 15)]);"""
    pictures = browser.script(code, "#clips .clip img")
    assert pictures == [[96, 72, "data:image/webp"]] * 18
    wrong = browser.one("#clips figure.clip .wrong")
    assert wrong.is_displayed()
    first = browser.script("return document.querySelector('#clips figure.clip').dataset.clip")
    row = next(row for row in predictions(few) if row["clip_id"] == first)
    task = next(task for task in TASKS if row[f"{task}_label"] != row[f"{task}_predicted"])
    place, names = list(TASKS).index(task), TASKS[task]
    true, answer = names.index(row[f"{task}_label"]), names.index(row[f"{task}_predicted"])
    panel = f'figure[data-matrix="{place}"]'
    browser.click(browser.one(f'{panel} rect[data-true="{true}"][data-answer="{answer}"]'))
    assert first in " ".join(browser.texts(f"{panel} .cell-clips figcaption"))
    assert all(width == 96 for width, *_ in browser.script(code, f"{panel} .cell-clips img"))


def test_rows_and_columns_of_a_matrix_are_ordered_and_filtered(browser: Browser, few: Run) -> None:
    browser.open(few.report)
    labels = 'figure[data-matrix="0"] text.label[text-anchor="end"]'
    assert browser.texts(labels) == list(TASKS["verb"])
    cells = clips_of_cells(few, "verb")
    order = Select(browser.one('figure[data-matrix="0"] select'))
    order.select_by_visible_text("accuracy, lowest first")
    assert browser.texts(labels) == sorted(TASKS["verb"], key=lambda name: len(cells[name, name]))
    order.select_by_visible_text("name")
    assert browser.texts(labels) == sorted(TASKS["verb"])
    all_of = """return [...document.querySelectorAll('figure[data-matrix="0"] rect[data-true]')]
        .map((one) => one.getAttribute(arguments[0]))"""
    place = TASKS["verb"].index("close")
    cell = browser.one(f'figure[data-matrix="0"] rect[data-true="{place}"][data-answer="{place}"]')
    assert cell.get_attribute("y") == min(browser.script(all_of, "y"), key=float)  # its row is the first now
    browser.hover(cell)
    assert browser.texts(".tip")[0].startswith("close called close: ")


def test_many_classes_are_a_picture_that_a_filter_makes_readable(browser: Browser, many: Run) -> None:
    browser.open(many.report)
    panel = 'figure[data-matrix="0"]'
    canvas = browser.one(f"{panel} canvas")
    size = browser.script("return [arguments[0].width, arguments[0].height]", canvas)
    assert size == [505, 505]
    cells = clips_of_cells(many, "action")
    (true, answer), clip_ids = next(cell for cell in cells.items() if cell[0][0] != cell[0][1])
    click = """const box = arguments[0].getBoundingClientRect();
        const [x, y] = [5 * arguments[2] + 2, 5 * arguments[1] + 2];
        for (const kind of ["pointermove", "click"])
          arguments[0].dispatchEvent(new PointerEvent(kind, { clientX: box.left + x, clientY: box.top + y }));"""
    browser.script(click, canvas, MANY["action"].index(true), MANY["action"].index(answer))
    assert browser.texts(".tip")[0].startswith(f"{true} called {answer}: {len(clip_ids)} of ")
    assert browser.texts(f"{panel} .cell-list li") == [f"{100 * share:.1f}\xa0% {i}" for share, i in clip_ids]
    browser.one(f"{panel} input").send_keys(true)
    matched = {name for name in MANY["action"] if true in name}
    confused = {a for t, a in cells if t in matched} | {t for t, a in cells if a in matched}
    labels = browser.texts(f'{panel} text[text-anchor="end"]')
    assert matched <= set(labels) <= matched | confused
    assert len(labels) == min(len(matched | confused), 40)
    assert labels == [name for name in MANY["action"] if name in labels]
    assert browser.messages() == []


def test_tables_are_sorted_and_filtered(browser: Browser, many: Run) -> None:
    browser.open(many.report)
    browser.script("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    table = "document.querySelector('#confusion details table')"
    head = browser.script(f"return [...{table}.tHead.rows[0].cells].map((cell) => cell.textContent)")
    rows = f"[...{table}.tBodies[0].rows].filter((row) => !row.hidden)"
    column = f"return {rows}.map((row) => row.cells[arguments[0]].textContent)"
    clips = head.index("clips")
    button = browser.script(f"return {table}.tHead.rows[0].cells[arguments[0]].querySelector('button')", clips)
    before = browser.script(column, clips)
    browser.click(button)
    assert browser.script(column, clips) == sorted(before, key=int, reverse=True)
    button.send_keys(Keys.ENTER)
    assert browser.script(column, clips) == sorted(before, key=int)
    sorts = browser.script(f"return [...{table}.tHead.rows[0].cells].map((cell) => cell.ariaSort)")
    assert sorts == ["ascending" if i == clips else None for i in range(len(head))]
    names = browser.script(f"return {table}.tHead.rows[0].cells[0].querySelector('button')")
    browser.click(names)
    assert browser.script(column, 0) == list(MANY["action"])  # class 2 before class 10
    accuracy = browser.script(
        f"return {table}.tHead.rows[0].cells[arguments[0]].querySelector('button')", head.index("accuracy")
    )
    browser.click(accuracy)
    shares = [float(text.rstrip("\xa0%")) for text in browser.script(column, head.index("accuracy"))]
    assert shares == sorted(shares, reverse=True)
    box = browser.one("#confusion details .controls input")
    box.send_keys("CLASS 7")
    assert set(browser.script(column, 0)) == {name for name in MANY["action"] if name.startswith("class 7")}
    assert browser.texts("#confusion details .controls .note") == ["11 of 101"]
    assert browser.messages() == []


@pytest.mark.parametrize("which", ["few", "many"])
def test_nothing_is_wider_than_a_phone(browser: Browser, request: pytest.FixtureRequest, which: str) -> None:
    run: Run = request.getfixturevalue(which)
    browser.look(width_px=390, height_px=844)
    browser.open(run.report)
    browser.script("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    browser.script("""for (const one of document.querySelectorAll("rect.wrong, canvas")) {
        const box = one.getBoundingClientRect();
        one.dispatchEvent(new MouseEvent("click", { bubbles: true, clientX: box.left + 2, clientY: box.top + 2 }));
      }""")
    assert browser.texts(".cell-clips h4")
    code = """return [...document.querySelectorAll("body *")].filter((one) => !one.closest(".scroll, pre, .tip, svg"))
        .filter((one) => one.getBoundingClientRect().right > innerWidth + 1).map((one) => one.outerHTML.slice(0, 80))"""
    assert browser.script(code) == []
    assert browser.script("return document.documentElement.scrollWidth") == 390


def test_dark_and_light_and_print(browser: Browser, few: Run) -> None:
    seen = {}
    code = """const style = getComputedStyle(document.body);
        return [style.backgroundColor, style.color].map((text) => text.match(/\\d+/g).slice(0, 3).map(Number))"""
    for scheme in ("light", "dark"):
        browser.look(scheme=scheme)
        browser.open(few.report)
        ground, ink = browser.script(code)
        seen[scheme] = (sum(ground), sum(ink))
    assert seen["light"][0] > 700 > 100 > seen["light"][1]
    assert seen["dark"][1] > 650 > 100 > seen["dark"][0]
    browser.look()
    browser.look_at_print()
    assert browser.texts(".controls, nav, .files") == []
    assert len(browser.texts("h2")) == 7
    assert browser.pdf().startswith(b"%PDF-")


def test_on_paper_it_is_light_and_nothing_is_cut_off(browser: Browser, tmp_path: Path) -> None:
    """At the width of an A4 page, asked for by somebody who prefers dark."""
    run = make_run(tmp_path / "run", num_clips=60)
    views = {"clips": 10, "crops": 3, "flip": True, "average": "probabilities", "num": 60}
    evaluate_again(run, "test_10x3_flip", views=views)
    evaluate_again(run, "other", source=f"/{'a long name of a folder/' * 4}/{'x' * 60}.csv", unknown="nothing.csv")
    write_page(run.folder)
    browser.look(width_px=718, scheme="dark")
    browser.look_at_print(scheme="dark")
    browser.open(run.report)
    assert browser.script("return document.documentElement.scrollWidth") == 718
    assert browser.script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    cut = "return [...document.querySelectorAll('.scroll')].filter((one) => one.scrollWidth > one.clientWidth).length"
    assert browser.script(cut) == 0


def test_names_are_text_in_the_script_too(browser: Browser, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", heads=EVIL, skill=0.0)
    write_page(run.folder)
    browser.open(run.report)
    assert browser.texts('text.label[text-anchor="end"]') == list(EVIL["action"])
    cell = browser.one("rect.wrong")
    browser.hover(cell)
    browser.click(cell)
    assert any(name in browser.texts(".cell-clips h4")[0] for name in EVIL["action"])
    assert not browser.all('img[src="x"]')
    assert browser.messages() == []


def test_without_the_script_all_can_be_read(browser: Browser, few: Run, tmp_path: Path) -> None:
    text = few.report.read_text(encoding="utf-8")
    plain = tmp_path / "plain.html"
    plain.write_text(text[: text.rindex("<script>")] + text[text.rindex("</script>") :], encoding="utf-8")
    browser.open(plain)
    assert not browser.all("button, input, select")
    assert len(browser.texts("svg.matrix")) == 2
    assert browser.script("return document.querySelector('svg.matrix rect title').textContent")


def test_figures_are_files_that_stand_alone(browser: Browser, few: Run) -> None:
    browser.open(few.report)
    addresses = browser.script("return [...document.querySelectorAll('.files a')].map((a) => a.getAttribute('href'))")
    assert len(addresses) == len(set(addresses)) >= 20
    files = {path.relative_to(few.folder).as_posix() for path in (few.folder / "figures").iterdir()}
    assert files == set(addresses)
    code = """const box = document.documentElement.getBoundingClientRect();
        const shapes = [...document.querySelectorAll(".validation, .value, .right, .train")];
        const black = shapes.filter((one) => {
          const style = getComputedStyle(one);
          return style.fill === "rgb(0, 0, 0)" && style.stroke === "none";
        });
        return [shapes.length, black.length, box.width > 100 && box.height > 60]"""
    for address in sorted(addresses):
        path = few.folder / address
        if path.suffix == ".svg":
            ElementTree.fromstring(path.read_bytes())  # well-formed
            assert "var(" not in path.read_text(encoding="utf-8")
            browser.open(path)
            num_shapes, num_black, is_large = browser.script(code)
            assert num_shapes > 0, address
            assert num_black == 0, address
            assert is_large, address
            assert browser.messages() == []
        else:
            with path.open(newline="", encoding="utf-8") as file:
                assert len({len(row) for row in csv.reader(file)}) == 1, address


def test_without_a_browser_tests_are_skipped_and_fail_where_it_has_to_be_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("KINEMA_REQUIRE_TEST_DATA", "0")
    with pytest.raises(pytest.skip.Exception, match="chromium"), chromium(tmp_path / "profile"):
        pass
    monkeypatch.setenv("KINEMA_REQUIRE_TEST_DATA", "1")
    with pytest.raises(pytest.fail.Exception, match="chromium"), chromium(tmp_path / "profile"):
        pass


def predictions(run: Run) -> list[dict[str, str]]:
    with (run.evaluations / "test" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def clips_of_cells(run: Run, task: str) -> dict[tuple[str, str], list[tuple[float, str]]]:
    """(true class, answer) -> (confidence, clip), the most confident first."""
    found: dict[tuple[str, str], list[tuple[float, str]]] = defaultdict(list)
    for row in predictions(run):
        share = round(float(row[f"{task}_confidence"]), 3)
        found[row[f"{task}_label"], row[f"{task}_predicted"]].append((share, row["clip_id"]))
    return {cell: sorted(clips, key=lambda clip: -clip[0]) for cell, clips in found.items()}
