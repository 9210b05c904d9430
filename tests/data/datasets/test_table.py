from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kinema.data.datasets.table import table
from kinema.types import Clip, ConfigError, DataError, Dataset


def make(root: Path, text: str, *, name: str = "clips.csv", absent: tuple[str, ...] = ()) -> Path:
    """A CSV file, and an empty file for each word in it that ends like a video."""
    (root / name).write_text(text, encoding="utf-8")
    for word in text.replace(",", " ").replace(";", " ").split():
        if word.endswith((".avi", ".mp4")) and word not in absent:
            (root / word).parent.mkdir(parents=True, exist_ok=True)
            (root / word).touch()
    return root


def labels(clips: tuple[Clip, ...], task: str = "action") -> list[int]:
    return [clip.labels[task] for clip in clips]


def ids(dataset: Dataset) -> dict[str, list[str]]:
    return {split: [clip.clip_id for clip in clips] for split, clips in dataset.splits.items()}


SETS = """path,label,set,sequence
push/a.avi,push,1,1
hug/b.avi,hug,1,2
push/c.avi,push,2,11
hug/d.avi,hug,2,12
"""


def test_rows_become_training_clips(tmp_path: Path) -> None:
    found = table(make(tmp_path, SETS))
    assert found.classes == {"action": ("hug", "push")}
    assert ids(found) == {"train": ["push/a.avi", "hug/b.avi", "push/c.avi", "hug/d.avi"]}
    assert found.splits["train"][0] == Clip(
        clip_id="push/a.avi",
        video=tmp_path / "push" / "a.avi",
        labels={"action": 1},
        attributes={"set": "1", "sequence": "1"},
    )
    assert (found.group_name, found.num_listed, found.notes) == (None, {"train": 4}, ())


def test_a_companion_file_of_macos_is_no_table(tmp_path: Path) -> None:
    make(tmp_path, SETS)
    (tmp_path / "._clips.csv").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
    assert len(table(tmp_path).splits["train"]) == 4
    (tmp_path / "clips.csv").unlink()
    with pytest.raises(DataError, match="holds no CSV file"):
        table(tmp_path)


def test_the_file_itself_may_be_the_root(tmp_path: Path) -> None:
    make(tmp_path, SETS)
    make(tmp_path, "path,label\nx/e.avi,hug\n", name="other.csv")
    assert ids(table(tmp_path / "other.csv")) == ids(table(tmp_path, csv="other.csv")) == {"train": ["x/e.avi"]}
    with pytest.raises(ConfigError, match=r"^data\.csv: missing; .* holds 2 CSV files, .*\(clips\.csv, other\.csv\)$"):
        table(tmp_path)
    with pytest.raises(ConfigError, match=r"^data\.csv: .*none\.csv: no such file"):
        table(tmp_path, csv="none.csv")
    with pytest.raises(ConfigError, match=r"^data\.csv: data\.root is a file already"):
        table(tmp_path / "clips.csv", csv="clips.csv")
    with pytest.raises(DataError, match="holds no CSV file"):
        table(tmp_path / "hug")
    with pytest.raises(ConfigError, match=r"^data\.root: missing"):
        table(None)


@pytest.mark.parametrize("held_out", [2, [2], "2", ["2"]])
def test_values_of_a_column_are_held_out(tmp_path: Path, held_out: Any) -> None:
    found = table(make(tmp_path, SETS), holdout={"set": held_out})
    assert ids(found) == {"train": ["push/a.avi", "hug/b.avi"], "test": ["push/c.avi", "hug/d.avi"]}
    assert found.num_listed == {"train": 2, "test": 2}


def test_any_held_out_column_makes_a_test_clip(tmp_path: Path) -> None:
    found = table(make(tmp_path, SETS), holdout={"sequence": [12], "path": "push/a.avi"})
    assert ids(found)["test"] == ["push/a.avi", "hug/d.avi"]


SESSIONS = "path,label,session,good\na.mp4,x,1.1,True\nb.mp4,x,1.10,True\nc.mp4,x,1.2,False\nd.mp4,x,2.50,\n"


@pytest.mark.parametrize(
    ("chosen", "paths"),
    [
        ({"session": ["1.10"]}, ["b.mp4"]),
        ({"session": 1.2}, ["c.mp4"]),
        ({"session": [2.5]}, ["d.mp4"]),
        ({"good": True}, ["a.mp4", "b.mp4"]),
        ({"good": None}, ["d.mp4"]),
    ],
)
def test_what_yaml_made_of_a_value_is_found_again(tmp_path: Path, chosen: dict[str, Any], paths: list[str]) -> None:
    found = table(make(tmp_path, SESSIONS), where=chosen)
    assert [clip.clip_id for clip in found.splits["train"]] == paths


def test_a_number_that_may_be_two_texts_is_refused(tmp_path: Path) -> None:
    root = make(tmp_path, SESSIONS)
    with pytest.raises(ConfigError, match=r"data\.holdout\.session: 1\.1 may mean '1\.1' or '1\.10'; put it in quotes"):
        table(root, holdout={"session": [1.10]})


def test_rows_are_chosen_by_value(tmp_path: Path) -> None:
    found = table(make(tmp_path, SETS), where={"set": [1, 2], "sequence": ["2", 11]})
    assert ids(found) == {"train": ["hug/b.avi", "push/c.avi"]}
    assert found.notes == ("2 of 4 rows are chosen by data.where",)


def test_yaml_truth_and_null_match_their_text(tmp_path: Path) -> None:
    make(tmp_path, "path,label,good,remark\na.avi,x,true,\nb.avi,x,false,dark\n")
    assert ids(table(tmp_path, where={"good": True})) == {"train": ["a.avi"]}
    assert ids(table(tmp_path, where={"remark": None})) == {"train": ["a.avi"]}


def test_groups(tmp_path: Path) -> None:
    make(tmp_path, SETS)

    def groups(found: Dataset) -> list[str | None]:
        return [clip.group for clips in found.splits.values() for clip in clips]

    held_out = table(tmp_path, holdout={"set": 2})
    assert (held_out.group_name, groups(held_out)) == ("set", ["1", "1", "2", "2"])
    one = table(tmp_path, holdout={"set": 2}, group="sequence")
    assert (one.group_name, groups(one)) == ("sequence", ["1", "2", "11", "12"])
    both = table(tmp_path, group=["set", "sequence"])
    assert (both.group_name, groups(both)) == ("set/sequence", ["1/1", "1/2", "2/11", "2/12"])
    (tmp_path / "clips.csv").write_text("path,label,group\npush/a.avi,push,monday\nhug/b.avi,hug,\n")
    own = table(tmp_path)
    assert (own.group_name, groups(own)) == ("group", ["monday", None])
    assert own.splits["train"][0].attributes == {}
    with pytest.raises(ConfigError, match=r"^data\.group: .* has no column 'grup'; did you mean 'group'\?"):
        table(tmp_path, group="grup")


def test_a_split_column(tmp_path: Path) -> None:
    make(tmp_path, "path,label,split\na.avi,x,Training\nb.avi,x,val\nc.avi,x,test\nd.avi,x,unused\n")
    with pytest.raises(DataError, match=r"clips\.csv: row 5, column 'split': 'unused' is not a split"):
        table(tmp_path)
    found = table(tmp_path, where={"split": ["Training", "val", "test"]})
    assert ids(found) == {"train": ["a.avi"], "validation": ["b.avi"], "test": ["c.avi"]}
    held_out = table(tmp_path, holdout={"path": "a.avi"})
    assert ids(held_out) == {"train": ["b.avi", "c.avi", "d.avi"], "test": ["a.avi"]}
    assert held_out.splits["train"][0].attributes == {"split": "val"}
    assert "the column 'split' is not used" in held_out.notes[0]
    only = table(tmp_path, where={"split": "test"})  # an evaluation needs no more
    assert (ids(only), only.classes) == ({"test": ["c.avi"]}, {"action": ("x",)})


def test_a_task_per_label_column(tmp_path: Path) -> None:
    make(tmp_path, "path,verb,noun\na.avi,open,door\nb.avi,close,door\n")
    found = table(tmp_path)
    assert found.classes == {"verb": ("close", "open"), "noun": ("door",)}
    assert [clip.labels for clip in found.splits["train"]] == [{"verb": 1, "noun": 0}, {"verb": 0, "noun": 0}]
    for named in ("verb", ["verb"]):
        one = table(tmp_path, labels=named)
        assert one.classes == {"action": ("close", "open")}
        assert one.splits["train"][0].attributes == {"noun": "door"}


def test_integers_from_zero_are_labels(tmp_path: Path) -> None:
    make(tmp_path, "path,label\na.avi,10\n" + "".join(f"b{number}.avi,{number}\n" for number in range(10)))
    found = table(tmp_path)
    assert found.classes["action"] == tuple(str(number) for number in range(11))
    assert labels(found.splits["train"]) == [10, *range(10)]
    make(tmp_path, "path,label\na.avi,0\nb.avi,2\n")
    with pytest.raises(DataError, match=r"column 'label': the integers .* \(1 is missing\); .* data\.classes\.label$"):
        table(tmp_path)


def test_class_lists(tmp_path: Path) -> None:
    make(tmp_path, "path,verb,noun\na.avi,2,cup\nb.avi,0,1\n")
    (tmp_path / "verbs.csv").write_text("id,key,category\n2,wash,a\n0,take,b\n1,put,b\n")
    (tmp_path / "nouns.txt").write_text("tap\ncup\n")
    found = table(tmp_path, classes={"verb": "verbs.csv", "noun": "nouns.txt"})
    assert found.classes == {"verb": ("take", "put", "wash"), "noun": ("tap", "cup")}
    assert labels(found.splits["train"], "verb") == [2, 0]
    assert labels(found.splits["train"], "noun") == [1, 1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.txt", "cut\nput\n", r"row 2, column 'label': label 'wash' of the train split is unknown in .*list\.txt"),
        ("list.txt", "wash\nput\nwash\n", r"list\.txt: class 2 is 'wash' again"),
        ("list.txt", "wash\n\nput\n", r"list\.txt: class 1 is empty"),
        ("list.csv", "id,name\n0,wash\n2,put\n", r"list\.csv: column 'id': expected the integers from 0 to 1"),
        ("list.csv", "number,name\n0,wash\n", r"list\.csv: expected columns 'id' and 'name' \(or 'key'\), found num"),
    ],
)
def test_broken_class_lists(tmp_path: Path, name: str, text: str, message: str) -> None:
    make(tmp_path, "path,label\na.avi,wash\n")
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        table(tmp_path / "clips.csv", classes={"label": name})


def test_times_cut_clips_out_of_videos(tmp_path: Path) -> None:
    text = "path,label,start_s,stop_s\n" + "".join(
        f"long.mp4,x,{times}\n" for times in ("0,1.5", "1.5,2", ",2", "3,", ",", "1.5,2")
    )
    found = table(make(tmp_path, text))
    clips = found.splits["train"]
    assert [(clip.start_s, clip.stop_s) for clip in clips] == [
        (0, 1.5), (1.5, 2), (0, 2), (3, None), (0, None), (1.5, 2),
    ]  # fmt: skip
    assert [clip.clip_id for clip in clips] == [
        "long.mp4#0-1.5", "long.mp4#1.5-2", "long.mp4#0-2", "long.mp4#3-", "long.mp4", "long.mp4#1.5-2~2",
    ]  # fmt: skip
    assert found.notes == ("rows that list the same stretch of a video as an earlier row: 1",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.avi,x\n", "clips.csv: no column 'path' (columns: file, label)"),
        (
            "label,youtube_id,time_start,time_end,split\nx,a,1,2,train\n",
            "split); this looks like a Kinetics list: use data.name=kinetics400 (or -600, -700)",
        ),
        ("path,class\na.avi,x\n", "clips.csv: no column 'label', nor 'verb' and 'noun'; name the label columns in "),
        ("path,label\na.avi,x\nb.avi,\n", "clips.csv: row 3, column 'label': the label is empty"),
        ("path,label\na.avi,x\n,x\n", "clips.csv: row 3, column 'path': is empty"),
        ("path,label,start_s\na.avi,x,soon\n", "row 2, column 'start_s': 'soon' is not a number of seconds"),
        ("path,label,start_s\na.avi,x,nan\n", "row 2, column 'start_s': 'nan' is not a number of seconds"),
        ("path,label,start_s\na.avi,x,-1\n", "row 2, column 'start_s': -1 is before the start of the video"),
        ("path,label,start_s,stop_s\na.avi,x,2,2\n", "column 'stop_s': the clip stops at 2 s but starts at 2 s"),
        ("path,label,stop_s\na.avi,x,0\n", "row 2, column 'stop_s': the clip stops at 0 s but starts at 0 s"),
        ("path,label,split\na.avi,x,train\nb.avi,y,val\n", "row 3, column 'label': label 'y' of the validation split"),
        (
            "path,label,split\na.avi,0,train\nb.avi,1,test\n",
            "row 3, column 'label': label '1' of the test split is unk",
        ),
        ("path,label\n", "clips.csv: has a header and no rows"),
        ("\n\n", "clips.csv: is empty; expected a header"),
        ("path,label,label\na.avi,x,y\n", "clips.csv: two columns are called 'label'"),
        ("path,label\na.avi,x,y\n", "clips.csv: row 2 has 3 fields and the header 2"),
        ("path,label\na.avi\n", "clips.csv: row 2 has 1 fields and the header 2"),
        ('path,label\na.avi,"x\n', "clips.csv: line 2 is not CSV"),
    ],
)
def test_what_is_wrong_in_the_file_is_said_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    make(tmp_path, text)
    with pytest.raises(DataError) as error:
        table(tmp_path)
    assert str(error.value).startswith(str(tmp_path / "clips.csv"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"holdout": {"sett": [2]}}, "data.holdout.sett: {csv} has no such column; did you mean 'set'? (known: path, "),
        ({"where": {"st": 1}}, "data.where.st: {csv} has no such column; did you mean 'set'?"),
        ({"holdout": {"set": [2, 3]}}, "data.holdout.set: no row has '3' in this column (there are: 1, 2)"),
        ({"holdout": {"set": [1, 2]}}, "data.holdout: every row of {csv} is held out"),
        ({"holdout": {"set": []}}, "data.holdout.set: expected a value or a list of values, got []"),
        (
            {"holdout": {"set": None}},
            "data.holdout.set: null is the empty value, which no row has in this column (there are: 1, 2); say which "
            "rows are meant, as in data.holdout={{set: [1]}}, or give data.holdout=null",
        ),
        ({"where": {"set": [None]}}, "data.where.set: null is the empty value, which no row has in this column"),
        ({"where": {"set": [True]}}, "data.where.set: no row has 'True' in this column (there are: 1, 2)"),
        ({"where": {"set": {"is": 1}}}, "data.where.set: expected a value or a list of values, got {{'is': 1}}"),
        ({"where": {"set": 1, "sequence": 12}}, "data.where: no row of {csv} has all of these values: {{'set': 1, "),
        ({"where": {"set": 1}, "holdout": {"set": 2}}, "data.holdout.set: no row has '2' in this column (there are: 1"),
        ({"labels": "lable"}, "data.labels: {csv} has no column 'lable'; did you mean 'label'?"),
        ({"labels": []}, "data.labels: is empty"),
        ({"labels": ["label", "label"]}, "data.labels: 'label' is named twice"),
        ({"labels": ["label", "path"]}, "data.labels: 'path' has another meaning"),
        ({"classes": {"lable": "x.txt"}}, "data.classes.lable: no such label column; did you mean 'label'?"),
        ({"classes": {"label": "x.txt"}}, "data.classes.label: {folder}/x.txt: no such file"),
    ],
)
def test_what_is_wrong_in_a_setting_names_its_key(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    make(tmp_path, SETS)
    with pytest.raises(ConfigError) as error:
        table(tmp_path, **arguments)
    assert str(error.value).startswith(message.format(csv=tmp_path / "clips.csv", folder=tmp_path))
    assert "\n" not in str(error.value)


def test_absent_videos_are_counted(tmp_path: Path) -> None:
    found = table(make(tmp_path, SETS, absent=("hug/b.avi", "hug/d.avi")), holdout={"set": 2})
    assert ids(found) == {"train": ["push/a.avi"], "test": ["push/c.avi"]}
    assert found.num_listed == {"train": 2, "test": 2}
    assert found.notes == ("2 of 4 listed clips are there, 2 are absent (train 1 of 2, test 1 of 2)",)
    assert found.classes == {"action": ("hug", "push")}
    for video in tmp_path.glob("*/*.avi"):
        video.unlink()
    with pytest.raises(
        DataError, match=r"clips\.csv: none of the 4 clips listed is there, such as .*a\.avi; paths are"
    ):
        table(tmp_path)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_how_spreadsheets_write(tmp_path: Path, separator: str, encoding: str) -> None:
    rows = [["path ", "label", "remark", ""], ["a.avi", "Händeschütteln", "", ""], [" b.avi", "hug", "x", ""], [""] * 4]
    text = "\r\n".join(separator.join(row) for row in rows) + "\r\n\r\n"
    (tmp_path / "clips.csv").write_bytes(text.encode(encoding))
    (tmp_path / "a.avi").touch()
    (tmp_path / "b.avi").touch()
    found = table(tmp_path)
    assert found.classes == {"action": ("hug", "Händeschütteln")}
    assert [clip.attributes for clip in found.splits["train"]] == [{"remark": ""}, {"remark": "x"}]


def test_quoted_fields_hold_the_separator(tmp_path: Path) -> None:
    make(tmp_path, 'path,label,remark\na.avi,hug,"dark, and ""loud"""\n')
    assert table(tmp_path).splits["train"][0].attributes == {"remark": 'dark, and "loud"'}


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_other_encodings_are_refused(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "clips.csv").write_bytes("path,label\na.avi,Händeschütteln\n".encode(encoding))
    with pytest.raises(DataError, match=r"clips\.csv: is not UTF-8 text \(byte \d+\); save it as CSV UTF-8"):
        table(tmp_path)


def test_real_clips(data_root: Path) -> None:
    found = table(data_root / "ut_interaction", csv="clips.csv", holdout={"set": [2]}, group="sequence")
    assert found.classes["action"] == ("hand_shaking", "hugging", "kicking", "pointing", "punching", "pushing")
    assert {split: len(clips) for split, clips in found.splits.items()} == {"train": 60, "test": 60}
    assert found.notes == ()
    assert len({clip.group for clip in found.splits["train"]}) == 10


def test_real_class_lists(data_root: Path, tmp_path: Path) -> None:
    make(tmp_path, "path,verb_class,noun_class\na.avi,3,299\n")
    annotations = data_root / "epic_kitchens_100"
    found = table(
        tmp_path,
        labels=["verb_class", "noun_class"],
        classes={
            "verb_class": str(annotations / "EPIC_100_verb_classes.csv"),
            "noun_class": str(annotations / "EPIC_100_noun_classes.csv"),
        },
    )
    assert [len(names) for names in found.classes.values()] == [97, 300]
    assert found.classes["verb_class"][3] == "open"


def test_all_unknown_labels_are_named(tmp_path: Path) -> None:
    make(tmp_path, "path,label,split\na.avi,run,train\nb.avi,runn,test\nc.avi,jmp,test\nd.avi,jmp,val\n")
    with pytest.raises(DataError) as caught:
        table(tmp_path)
    assert "row 3, column 'label': label 'runn' of the test split is unknown" in str(caught.value)
    assert str(caught.value).endswith("; 2 more rows have unknown labels (jmp)")
