"""The page about a run, from made-up runs that hold what kinema itself writes."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from tests.report.made_up import ACTIONS, TASKS, Page, evaluate_again, make_run, put_predictions
from tests.videos import numbered_frames, read_number, write_video

from kinema import recipes, wording
from kinema.config import resolve
from kinema.data.decoding import probe
from kinema.evaluation.leakage import leakage_findings
from kinema.report.clips import Sample, least_confident_hits, most_confident_mistakes, moving_picture, read_samples
from kinema.report.figure_files import FigureFiles
from kinema.report.markup import counted, duration, element, percent, percent_range, signed_percent
from kinema.report.matrix_data import matrix_data
from kinema.report.page import write_page
from kinema.report.recipe_changes import changes
from kinema.report.record import Evaluation, read_run
from kinema.report.results import frequency_table
from kinema.training.model_card import MARK
from kinema.training.run_folder import Run
from kinema.types import DataError, Heads

EVIL = "<script>alert('x')</script> & \"quoted\""


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "numbered.mp4"
    return write_video(path, numbered_frames(24, width_px=192, height_px=144), fps=12)


def test_numbers_are_those_of_the_evaluations(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", pairs={"action": (("open", "close"),)})
    page = Page(write_page(run.folder))
    for split in ("validation", "test"):
        record = _metrics(run, split)
        values = record["tasks"]["action"]
        shown = [percent(values["top1"]), percent_range(values["interval"])]
        shown += [percent(values[key]) for key in ("top3", "top5", "mean_class", "chance", "majority")]
        shown += [percent(values["train_top1"]), signed_percent(values["gap"]), percent(record["pairs"])]
        assert [split, "action", "24", "0", *shown] in page.rows
    assert "top-1 on test" in page.text
    assert "epoch 3 kept for the best validation result" in page.text
    assert "chance 33.3 %" in page.text.replace("\xa0", " ")


def test_table_of_classes_agrees_with_the_confusion_matrix(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", skill=0.5)
    page = Page(write_page(run.folder))
    with (run.evaluations / "test" / "confusion_action.csv").open(newline="") as file:
        matrix = [[int(value) for value in row[1:]] for row in list(csv.reader(file))[1:]]
    classes = {values["name"]: values for values in _metrics(run, "test")["tasks"]["action"]["classes"]}
    for i, name in enumerate(ACTIONS["action"]):
        (row,) = [row for row in page.rows if row[0] == name and len(row) == 10]
        others = {n: count for j, (n, count) in enumerate(zip(ACTIONS["action"], matrix[i], strict=True)) if j != i}
        wrong = max(others, key=others.__getitem__)
        assert row[1:4] == [str(sum(matrix[i])), str(matrix[i][i]), percent(matrix[i][i] / sum(matrix[i]))]
        assert row[9] == f"{wrong} ({others[wrong]})"
        values = classes[name]
        shown = [percent(values[key]) for key in ("precision", "f1", "average_precision", "auroc")]
        assert row[4:9] == [percent_range(values["interval"]), *shown]
        assert row[5] == percent(matrix[i][i] / sum(of_class[i] for of_class in matrix))
    cells = [tag for tag, attributes in page.tags if tag == "rect" and attributes.get("class") in ("right", "wrong")]
    assert len(cells) == sum(count > 0 for row in matrix for count in row)


def test_several_tasks_have_a_joint_accuracy_and_a_matrix_each(tmp_path: Path, video: Path) -> None:
    run = make_run(tmp_path / "run", heads=TASKS, skill=1.0, videos=[video])
    page = Page(write_page(run.folder))
    joint = _metrics(run, "test")["joint"]
    shown = [percent(joint["top1"]), percent_range(joint["interval"]), percent(joint["top3"]), percent(joint["top5"])]
    (row,) = [row for row in page.rows if row[:2] == ["test", "joint"]]
    assert row[4:8] == shown
    assert row[8] == "–"  # no mean class accuracy over combinations
    assert row[9] == percent(1 / 6)
    assert len(page.of_class("matrix")) == 2
    assert len(page.of_class("chart")) == 6  # loss, verb, noun, joint; confidence of verb and noun
    assert "top-1, joint" in page.text
    assert "right in all tasks on test" in page.text
    assert len(page.of_class("clip")) == len(page.attributes("picture")) == 18


def test_confidence_is_shown_before_and_after(tmp_path: Path) -> None:
    page = Page(write_page(make_run(tmp_path / "plain").folder))
    assert "Calibration, test" in page.text
    assert "with the temperature" not in page.text
    run = make_run(tmp_path / "run", temperature=2.5)
    page = Page(write_page(run.folder))
    values = _metrics(run, "test")["tasks"]["action"]["calibration"]
    text = page.text.replace("\xa0", " ")
    before, after = (wording.percent(error) for error in (values["ece"], values["after"]["ece"]))
    assert f"Calibration error {before}; {after} with the temperature 2.5, fitted on validation clips." in text
    dots = [a for a in page.attributes("circle") if a.get("fill_opacity") or a.get("fill-opacity")]
    assert len(dots) == len(values["bins"]) + len(values["after"]["bins"])
    assert all(f"{one['num_clips']} clip" in text for one in values["bins"])


def test_what_a_data_set_asks_for_is_shown_apart(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", evaluated=("test",))
    path = run.evaluations / "test" / "metrics.json"
    subsets = {"tail": {"verb": {"top1": 0.25, "num_clips": 1200}}, "unseen": {"verb": {"top1": None, "num_clips": 0}}}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"subsets": subsets}))
    page = Page(write_page(run.folder))
    assert ["test", "of tail classes", "verb", percent(0.25), "1,200"] in page.rows
    assert ["test", "of unseen groups", "verb", "–", "0"] in page.rows


def test_settings_that_differ_from_the_recipe_are_listed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", evaluated=())
    path = run.folder / "environment.json"
    environment = json.loads(path.read_text())
    path.write_text(json.dumps({**environment, "command": ["kinema", "train", "motion/cnn_lstm", "trainer.epochs=4"]}))
    page = Page(write_page(run.folder))
    planned = resolve(recipes.read("motion/cnn_lstm")).trainer.epochs
    assert "What differs from the recipe motion/cnn_lstm" in page.text
    assert [row for row in page.rows if row[0].startswith("trainer.")] == [["trainer.epochs", str(planned), "4"]]
    path.write_text(json.dumps({**environment, "command": ["kinema", "demo"]}))
    page = Page(write_page(run.folder))
    assert "What differs from the defaults" in page.text
    assert "4" in [row[2] for row in page.rows if row[0] == "trainer.epochs"]
    assert list(changes({"a": {"b": 1, "c": [1]}, "output": 1}, {"a": {"b": 1, "c": [2]}, "output": 2})) == [
        ("a.c", [1], [2])
    ]


def test_the_clips_of_each_split_are_counted(tmp_path: Path) -> None:
    page = Page(write_page(make_run(tmp_path / "run", num_clips=25, skipped={"a": "zero bytes"}).folder))
    assert ["trained on", "25", "–", "1", "3 of 3"] in page.rows
    assert ["evaluated: test", "25", "1", "–", "3 of 3"] in page.rows
    assert ["open", "9", "9", "9"] in page.rows


def test_a_figure_that_is_a_file_has_its_legend_in_lines() -> None:
    files = FigureFiles()
    drawing = element("svg", element("rect", x=0, y=0, width=9, height=9), viewBox="0 0 200 100")
    keys = [("line s0", "M0 0H9", f"a name that is long {i}") for i in range(3)]
    links = [files.keep("A figure", drawing, ("name", "value"), [("a", 0.5), ("b", math.nan)], legend=keys)]
    links.append(files.keep("a figure!", drawing, ("name",), []))
    assert list(files.contents) == ["a-figure.svg", "a-figure.csv", "a-figure-2.svg", "a-figure-2.csv"]
    assert 'href="figures/a-figure-2.csv"' in links[1]
    assert files.contents["a-figure.csv"] == b"name,value\na,0.5\nb,\n"
    svg = files.contents["a-figure.svg"].decode()
    assert [float(y) for y in re.findall(r'y="(\d+)">a name that', svg)] == [0, 22, 44]
    assert 'viewBox="-12 -100 224 212"' in svg  # four lines above, and a margin
    assert "var(" not in svg


def test_what_may_be_chance_is_said(tmp_path: Path) -> None:
    page = Page(write_page(make_run(tmp_path / "run", skill=0.3, num_clips=12).folder))
    assert "these clips do not show that it is better than always answering the commonest training class" in page.text
    page = Page(write_page(make_run(tmp_path / "good", skill=9.0).folder))
    assert "these clips do not show" not in page.text


def test_page_needs_nothing_from_outside(tmp_path: Path, video: Path) -> None:
    run = make_run(tmp_path / "run", videos=[video], skill=1.0)
    page = Page(write_page(run.folder))
    names = {tag for tag, _ in page.tags}
    assert not names & {"link", "iframe", "object", "embed", "base", "form"}
    assert [a.get("type") for a in page.attributes("script")] == ["application/json", None]
    addresses = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "srcset", "href", "data", "poster", "action", "xlink:href")
    ]
    assert addresses
    for address in addresses:
        inside = (run.folder / address).is_file() if not address.startswith(("data:", "#")) else True
        assert inside, address
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert {address[1:] for address in addresses if address.startswith("#")} <= set(ids)
    source = run.report.read_text(encoding="utf-8")
    style = source[source.index("<style>") : source.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    (policy,) = [a["content"] for a in page.attributes("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    script = source[source.rindex("<script>") + len("<script>") : source.rindex("</script>")]
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{allowed}';" in policy
    assert not re.search(r"\beval\b|\bFunction\(|innerHTML|insertAdjacentHTML|fetch\(|XMLHttpRequest|import\(", script)


def test_what_users_wrote_is_text(tmp_path: Path) -> None:
    heads: Heads = {"action": (EVIL, "</style><img src=x onerror=alert(1)>", "a\"b'c")}
    run = make_run(tmp_path / "run", heads=heads, skill=0.0, skipped={EVIL: f"{EVIL}.mp4: zero bytes"})
    (run.folder / "log.txt").write_text(f"2026-01-01 10:00:00 WARNING {EVIL}\n")
    environment = json.loads((run.folder / "environment.json").read_text())
    (run.folder / "environment.json").write_text(json.dumps({**environment, "command": ["kinema", EVIL]}))
    page = Page(write_page(run.folder))
    assert len(page.attributes("script")) == 2
    assert page.data["matrices"][0]["classes"] == list(heads["action"])
    assert not [a for a in page.attributes("img") if a.get("src") == "x"]
    assert page.text.count(EVIL) >= 5  # matrix, table, chart of counts, clips, skipped clips, log
    assert f"{EVIL}.mp4: zero bytes" in page.text


@pytest.mark.parametrize("finished", [True, False])
def test_without_evaluations_it_says_what_to_do(tmp_path: Path, finished: bool) -> None:
    run = make_run(tmp_path / "run", evaluated=(), finished=finished)
    page = Page(write_page(run.folder))
    if finished:
        assert f"kinema evaluate {run.folder}" in page.text
        assert "Preprocessing" in page.text
    else:
        assert f"kinema train --resume {run.folder}" in page.text
        assert "not finished" in page.text
    assert "4 of 4 epochs in 10 s" in page.text
    assert len(page.of_class("chart")) == 2
    assert not page.of_class("matrix")


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", evaluated=(), finished=False)
    (run.folder / "metrics.csv").unlink()
    page = Page(write_page(run.folder))
    assert "0 of 4 epochs" in page.text
    assert "No epoch has been finished yet." in page.text


def test_only_a_validation_result_asks_for_the_test_split(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", evaluated=("validation",))
    page = Page(write_page(run.folder))
    assert "no evaluation on the test split" in page.text
    assert "top-1 on validation" in page.text
    write_page(make_run(tmp_path / "other", evaluated=("test",)).folder)
    assert "no evaluation on the test split" not in Page(tmp_path / "other" / "report.html").text


def test_newest_test_evaluation_is_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", evaluated=("test",) * 11 + ("train", "validation"))
    record = read_run(run.folder)
    assert [evaluation.name for evaluation in record.evaluations][:4] == ["train", "validation", "test", "test-2"]
    assert record.headline is not None
    assert record.headline.name == "test-11"
    page = Page(write_page(run.folder))
    assert "Confusion matrix, test-11" in page.text
    assert len([row for row in page.rows if row[0].startswith("test")]) == 11


VIEWS = {"clips": 10, "crops": 3, "flip": True, "average": "vote", "num": 60}


def test_the_headline_is_of_its_own_clips_looked_at_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", skill=0.5)
    own = _metrics(run, "test")["tasks"]["action"]["top1"]
    tasks = json.loads(json.dumps(_metrics(run, "test")["tasks"]))
    tasks["action"] |= {"top1": 0.123, "top7": 0.77, "single_view_top1": 0.111}
    evaluate_again(run, "other", source="/elsewhere/clips of others.csv", tasks=tasks)
    evaluate_again(run, "test_10x3_flip", views=VIEWS, tasks=tasks)
    record = read_run(run.folder)
    assert record.headline is not None
    assert record.headline.name == "test"
    assert [one.name for one in record.plain] == ["validation", "test"]
    assert [one.name for one in record.others] == ["other", "test_10x3_flip"]
    page = Page(write_page(run.folder))
    assert "top-1 on test " in page.text
    assert "Confusion matrix, test " in page.text
    assert percent(0.123) not in page.text.partition("Other evaluations")[0]
    (head,) = [row for row in page.rows if "single views" in row]
    rows = {row[0]: dict(zip(head, row, strict=True)) for row in page.rows if row[0] in ("other", "test_10x3_flip")}
    assert rows["other"]["which clips"] == "test split of /elsewhere/clips of others.csv"
    assert rows["other"]["each looked at"] == "once"
    views = rows["test_10x3_flip"]
    assert views["which clips"] == "test split"
    assert views["each looked at"] == "10 clips x 3 crops, each mirrored too; majority vote"
    assert (views["top-1"], views["single views"]) == (percent(0.123), percent(0.111))
    assert f"top-7 {percent(0.77)}" in views["top-k"]
    card = (run.weights / "README.md").read_text()
    assert percent(0.123).replace("\xa0", " ") not in card  # a card that kinema has not written is left alone
    (run.weights / "README.md").write_text(MARK)
    write_page(run.folder)
    card = (run.weights / "README.md").read_text()
    front, _, body = card.removeprefix("---").partition("\n---\n")
    metrics = [one["value"] for of in yaml.safe_load(front)["model-index"][0]["results"] for one in of["metrics"]]
    assert pytest.approx(own) in metrics
    assert 0.123 not in metrics
    assert "| test split of clips of others.csv | once | action | 24 | 12.3 % |" in body
    assert "/elsewhere" not in card


def test_inputs_that_could_not_be_compared_are_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", evaluated=("test",))
    evaluate_again(run, "test-2", inputs_unknown="of rgb, training kept nothing")
    assert "test-2: whether clips are prepared as in training could not be looked at: of rgb" in (
        Page(write_page(run.folder)).text
    )


def test_without_an_evaluation_of_its_own_it_says_of_what(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", evaluated=("test",))
    evaluate_again(run, "other", source="/elsewhere/list.csv")
    shutil.rmtree(run.evaluations / "test")
    text = Page(write_page(run.folder)).text
    assert "top-1 on other" in text
    assert "24 clips of /elsewhere/list.csv" in text.replace("\xa0", " ")
    assert "no evaluation on the test split" in text


def test_what_was_looked_at_stays_when_a_newer_evaluation_did_not(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", evaluated=("test",))
    time: dict[str, Any] = {
        "reversed": {"action": {"top1": 0.5, "drop": 0.1, "interval": None, "same": 0.5, "classes": []}}
    }
    evaluate_again(run, "other", source="/elsewhere/list.csv", time=time)
    assert "Does it use time? other" in Page(write_page(run.folder)).text
    evaluate_again(run, "test-2", time=time)
    evaluate_again(run, "test-3")
    page = Page(write_page(run.folder))
    assert "top-1 on test-3" in page.text
    assert "Does it use time? test-2" in page.text


def test_the_prior_of_classes_that_came_together_is_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", heads=TASKS, evaluated=("test",))
    joint = _metrics(run, "test")["joint"] | {"with_prior": {"top1": 0.4321, "top3": 0.5432, "top5": 0.6543}}
    path = run.evaluations / "test" / "metrics.json"
    path.write_text(json.dumps(_metrics(run, "test") | {"joint": joint}))
    evaluate_again(run, "other", source="list.csv")
    page = Page(write_page(run.folder))
    shown = [percent(share) for share in (0.4321, 0.5432, 0.6543)]
    (row,) = [row for row in page.rows if row[:2] == ["test", "joint, with prior"]]
    assert [row[4], *row[6:8]] == shown
    (row,) = [row for row in page.rows if row[0] == "other" and row[3] == "joint, with prior"]
    assert [row[5], row[10]] == [shown[0], f"top-3 {shown[1]} top-5 {shown[2]}"]
    assert "oftener the classes came together" in page.text


def test_an_evaluation_that_does_not_say_of_which_clips_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", evaluated=("test",))
    path = run.evaluations / "test" / "metrics.json"
    path.write_text(json.dumps({key: value for key, value in _metrics(run, "test").items() if key != "list"}))
    with pytest.raises(DataError, match=r"not the numbers of an evaluation; remove test and evaluate again$"):
        read_run(run.folder)


def test_bad_results_are_said_in_words(tmp_path: Path) -> None:
    pairs = {"action": (("open", "close"),)}
    bad = Page(write_page(make_run(tmp_path / "bad", skill=-9.0, pairs=pairs, evaluated=("test",)).folder))
    record = _metrics(Run(tmp_path / "bad"), "test")
    assert record["tasks"]["action"]["top1"] == 0.0
    assert "top-1 0.0 % is not better than always answering the commonest training class" in bad.text
    assert "or chance (33.3 %)." in bad.text
    assert "the gap to the training clips is large (+100.0 %:" in bad.text
    assert "the order of frames does not help" in bad.text
    assert "that was trained on" not in bad.text
    path = tmp_path / "bad" / "evaluations" / "test" / "metrics.json"
    found = leakage_findings({"same_video": 2, "same_group": 0}, num_clips=24)
    path.write_text(json.dumps({**record, "findings": found}))
    known = Page(write_page(tmp_path / "bad")).text
    assert "test: 2 of 24 clips are of a video that was trained on" in known
    assert "of a group that was trained on" not in known
    good = Page(write_page(make_run(tmp_path / "good", skill=30.0, pairs=pairs).folder))
    assert "not better than" not in good.text
    assert "gap to the training clips is large" not in good.text
    assert "order of frames does not help" not in good.text


def test_nan_is_a_dash(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", evaluated=("test",))
    path = run.evaluations / "test" / "metrics.json"
    record = json.loads(path.read_text())
    task = record["tasks"]["action"]
    task |= {key: math.nan for key, value in task.items() if isinstance(value, float)}
    task |= {"interval": None, "above_majority": None, "calibration": {"bins": [], "ece": None}}
    for values in task["classes"]:
        values |= {key: None for key, value in values.items() if isinstance(value, float | list)}
    path.write_text(json.dumps(record | {"gap": math.nan, "num_clips": 0}))
    rows = (run.folder / "metrics.csv").read_text().splitlines()
    rows[2] = re.sub(r"^(2(?:\.0)?),[^,]*,[^,]*,", r"\1,0.001,nan,", rows[2])
    (run.folder / "metrics.csv").write_text("\n".join(rows))
    page = Page(write_page(run.folder))
    assert ["test", "action", "0", "0", *["–"] * 9] in page.rows
    assert "test: no accuracy, because no clip was evaluated." in page.text
    assert not re.search(r"\bnan\b", page.text, flags=re.IGNORECASE)
    lines = [a["d"] for a in page.attributes("path") if a.get("class") == "line train" and len(a["d"]) > 10]
    assert lines[0].count("M") == 2  # the loss has a hole


def test_many_classes_get_a_compact_matrix_and_the_most_confused_pairs(tmp_path: Path) -> None:
    heads: Heads = {"action": tuple(f"class {i}" for i in range(150))}
    run = make_run(tmp_path / "run", heads=heads, num_clips=2000, skill=1.5)
    page = Page(write_page(run.folder))
    assert page.num_bytes < 1_500_000
    assert not page.of_class("matrix")
    (image,) = [a for a in page.attributes("img") if a.get("class") == "compact"]
    with Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))) as picture:
        alpha = np.asarray(picture)[..., 3]
    with (run.evaluations / "test" / "confusion_action.csv").open(newline="") as file:
        matrix = np.array([[int(value) for value in row[1:]] for row in list(csv.reader(file))[1:]])
    assert np.array_equal(alpha > 0, matrix > 0)
    np.fill_diagonal(matrix, 0)
    pairs = [row for row in page.rows if len(row) == 4 and row[3].endswith("%")]
    assert [int(row[2]) for row in pairs] == sorted(matrix.ravel().tolist(), reverse=True)[:20]
    for true, answer, count, _ in pairs:
        assert matrix[int(true[6:]), int(answer[6:])] == int(count)


@pytest.mark.parametrize(("num_classes", "size_px"), [(400, 200), (1203, 172)])
def test_more_classes_than_pixels(tmp_path: Path, num_classes: int, size_px: int) -> None:
    heads: Heads = {"action": tuple(f"class {i}" for i in range(num_classes))}
    run = make_run(tmp_path / "run", heads=heads, num_clips=1500, evaluated=("test",))
    page = Page(write_page(run.folder))
    assert page.num_bytes < 1_500_000
    (image,) = [a for a in page.attributes("img") if a.get("class") == "compact"]
    with Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))) as picture:
        assert picture.size == (size_px, size_px)
        alpha = np.asarray(picture)[..., 3]
    assert (alpha.diagonal() > 0).mean() > 0.5


def test_a_large_data_set_fits_on_a_page(tmp_path: Path) -> None:
    heads: Heads = {task: tuple(f"{task} number {i:04d}" for i in range(400)) for task in ("verb", "noun", "place")}
    run = make_run(tmp_path / "run", heads=heads, num_clips=400, evaluated=("test",))
    put_predictions(run.evaluations / "test", heads, num_clips=20_000)
    page = Page(write_page(run.folder))
    assert page.num_bytes < 6_000_000  # without pictures; those of 18 clips are 3.6 MB at most
    matrices = page.data["matrices"]
    assert [matrix["task"] for matrix in matrices] == list(heads)
    with (run.evaluations / "test" / "confusion_noun.csv").open(newline="") as file:
        counts = np.array([[int(value) for value in row[1:]] for row in list(csv.reader(file))[1:]])
    cells = {(true, answer): num for true, answer, num, _ in matrices[1]["cells"]}
    assert cells == {(t, a): counts[t, a] for t, a in np.argwhere(counts).tolist()}
    assert sum(len(clips) for *_, clips in matrices[1]["cells"]) == 20_000 == len(page.data["clips"])


def test_clips_that_do_not_fit_are_left_out_of_full_cells_first(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", num_clips=600, skill=0.5, evaluated=("test",))
    evaluation = read_run(run.folder).evaluations[0]
    confusions, samples = evaluation.confusions(), read_samples(evaluation.predictions(), ["action"])
    whole = matrix_data(evaluation, confusions, samples)
    sizes = {}
    for max_bytes in (8_000, 4_000, 1_500, 400):
        data = matrix_data(evaluation, confusions, samples, max_bytes=max_bytes)
        assert len(json.dumps(data, separators=(",", ":"))) <= max_bytes
        sizes[max_bytes] = len(data["clips"])
        of_all = {tuple(cell[:3]): [whole["clips"][i] for i in cell[3]] for cell in whole["matrices"][0]["cells"]}
        for true, answer, num, clips in data["matrices"][0]["cells"]:
            names = [data["clips"][i] for i in clips]
            assert names == of_all[true, answer, num][: len(names)]  # the most confident ones
            assert len(names) == min(num, max(len(cell[3]) for cell in data["matrices"][0]["cells"]))
    assert 600 == len(whole["clips"]) > sizes[8_000] > sizes[4_000] > sizes[1_500] > sizes[400] == 0


def test_videos_that_are_missing_or_broken_have_a_placeholder(tmp_path: Path, video: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(video.read_bytes()[:700])
    empty = tmp_path / "empty.mp4"
    empty.touch()
    run = make_run(tmp_path / "run", skill=0.0, videos=[tmp_path / "missing.mp4", broken, empty, tmp_path])
    page = Page(write_page(run.folder))
    assert len(page.of_class("missing")) == len(page.of_class("clip")) == 12 + 6
    assert not page.attributes("picture")


def test_a_clip_that_plays_shows_its_stretch_in_order(video: Path) -> None:
    sample = Sample(clip_id="a", video=video, start_s=1.0, stop_s=2.0, answers={"action": ("open", "close", 0.9)})
    pictures = moving_picture(sample, probe(video))
    assert pictures is not None
    moving: Any  # Pillow's types know nothing of pictures that move
    with Image.open(io.BytesIO(pictures[0])) as moving:
        assert moving.format == "WEBP"
        assert moving.n_frames == 12  # the video's frames; what was sampled twice is shown twice as long
        assert moving.size == (160, 120)
        numbers, shown_ms = [], 0
        for i in range(moving.n_frames):
            moving.seek(i)
            numbers.append(read_number(np.asarray(moving.convert("RGB"))))
            shown_ms += moving.info["duration"]
    assert numbers == list(range(12, 24))
    assert shown_ms == pytest.approx(1600, abs=10)  # its own pace, and a pause at the end
    outside = Sample(clip_id="a", video=video, start_s=9.0, stop_s=None, answers={})
    assert moving_picture(outside, probe(video)) is None


def test_videos_inside_the_run_are_named_from_there(tmp_path: Path) -> None:
    inside, outside = tmp_path / "run" / "videos" / "a.mp4", tmp_path / "b.mp4"
    page = Page(write_page(make_run(tmp_path / "run", videos=[inside, outside]).folder))
    assert {a["title"] for a in page.attributes("div") if "title" in a} == {"videos/a.mp4", str(outside)}


def test_choice_of_clips() -> None:
    def sample(true: str, predicted: str, confidence: float) -> Sample:
        answers = {"action": (true, predicted, confidence)}
        return Sample(clip_id=f"{true}{confidence}", video=Path("x"), start_s=0.0, stop_s=None, answers=answers)

    samples = [
        sample("a", "b", 0.5),
        sample("a", "a", 0.6),
        sample("a", "a", 0.9),
        sample("b", "a", 0.8),
        sample("b", "b", 0.3),
        sample("c", "c", 0.7),
        sample("c", "a", 0.6),
    ]
    assert [s.clip_id for s in most_confident_mistakes(samples, 2)] == ["b0.8", "c0.6"]
    assert [s.clip_id for s in least_confident_hits(samples, 6)] == ["b0.3", "a0.6", "c0.7", "a0.9"]
    assert [s.clip_id for s in least_confident_hits(samples, 2)] == ["b0.3", "a0.6"]


def test_skipped_clips_have_their_reasons(tmp_path: Path) -> None:
    reasons = {f"clip {i}": f"reason {i}" for i in range(12)}
    page = Page(write_page(make_run(tmp_path / "run", evaluated=("test",), skipped=reasons).folder))
    assert "test: 12 clips could not be read" in page.text.replace("\xa0", " ")
    assert "reason 9" in page.text
    assert "reason 10" not in page.text
    assert "evaluations/test/skipped.csv" in [a["href"] for a in page.attributes("a")]


def test_writing_again_replaces_the_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", evaluated=())
    assert write_page(run.folder) == run.report
    first = run.report.read_bytes()
    assert write_page(run.folder).read_bytes() == first
    assert [path.name for path in run.folder.iterdir() if path.name.startswith((".", "report"))] == ["report.html"]


def test_broken_runs_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"config\.yaml is missing"):
        write_page(tmp_path)
    run = make_run(tmp_path / "run", evaluated=("test",))
    (run.evaluations / "test" / "metrics.json").write_text("{")
    with pytest.raises(DataError, match=r"metrics\.json: not readable JSON"):
        write_page(run.folder)
    run.config.write_text("model: 3")
    with pytest.raises(DataError, match=r"config\.yaml: not the recipe"):
        write_page(run.folder)
    assert not run.report.exists()


def test_words() -> None:
    assert percent(0.8333) == "83.3\xa0%"
    assert percent(None) == percent(math.nan) == "–"
    assert [signed_percent(share) for share in (0.05, -0.05)] == ["+5.0\xa0%", "−5.0\xa0%"]
    assert [counted(num, "class") for num in (0, 1, 2000)] == ["0\xa0classes", "1\xa0class", "2,000\xa0classes"]
    assert [duration(s).replace("\xa0", " ") for s in (9.6, 355, 7800)] == ["10 s", "5 min 55 s", "2 h 10 min"]
    assert element("a", "<", ["&", element("br")], href='"') == '<a href="&quot;">&lt;&amp;<br></a>'


def _metrics(run: Run, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run.evaluations / name / "metrics.json").read_text())
    return content


def test_accuracy_on_common_and_rare_classes_is_a_table() -> None:
    facts = {
        "head": {"num_classes": 2, "num_clips": 9, "fewest_training_clips": 40, "most_training_clips": 1200},
        "middle": {"num_classes": 1, "num_clips": 0, "fewest_training_clips": 9, "most_training_clips": 9},
        "tail": {"num_classes": 2, "num_clips": 4, "fewest_training_clips": 1, "most_training_clips": 3},
    }
    skewed = {"split": "test", "tasks": {"action": {"head": 0.9, "middle": None, "tail": 0.25, "frequency": facts}}}
    even = {"split": "test", "tasks": {"action": {"top1": 0.5}}}
    found = frequency_table([Evaluation(folder=Path("a"), record=skewed)])
    assert found is not None
    text = str(found)
    for part in ("90.0", "40 to 1,200", "25.0", "1 to 3", "head", "tail"):
        assert part in text
    assert frequency_table([Evaluation(folder=Path("a"), record=even)]) is None
