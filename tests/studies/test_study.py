"""What a study's file says, and which runs come of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import REPOSITORY

from kinema.config import resolve
from kinema.files import to_yaml
from kinema.studies.buildable import check_buildable
from kinema.studies.crossval import crossval_study
from kinema.studies.jobs import Place, find_run, jobs_of, recipe_fingerprint
from kinema.studies.study import names, read_study
from kinema.training_sections import CosineRestarts, Plateau, Step
from kinema.types import ConfigError

BASE: dict[str, Any] = {
    "name": "mine",
    "base": "motion/frame_average",
    "overrides": {
        "data.num_train_backgrounds": 2,
        "data.num_validation_backgrounds": 1,
        "data.num_test_backgrounds": 0,
        "data.size_px": 32,
    },
}


def write(folder: Path, **changes: Any) -> str:
    path = folder / "study.yaml"
    path.write_text(to_yaml({**BASE, **changes}))
    return str(path)


def test_runs_and_a_grid_give_every_combination(tmp_path: Path) -> None:
    runs = [
        {"name": "mean"},
        {"name": "lstm", "overrides": {"model": {"name": "cnn_lstm", "backbone": "tiny", "hidden_size": 8}}},
    ]
    study = read_study(write(tmp_path, runs=runs, grid={"optim.lr": [1e-3, 1e-2], "trainer.epochs": [2]}))
    assert [setting.name for setting in study.settings] == [
        "mean, lr=0.001, epochs=2",
        "mean, lr=0.01, epochs=2",
        "lstm, lr=0.001, epochs=2",
        "lstm, lr=0.01, epochs=2",
    ]
    last = resolve(study.settings[-1].values)
    assert (last.model.name, last.model.arguments()["hidden_size"], last.optim.lr) == ("cnn_lstm", 8, 0.01)
    assert last.data.arguments()["num_train_backgrounds"] == 2
    assert study.settings[1].changes == ("optim.lr=0.01", "trainer.epochs=2")
    assert study.folder == Path("runs/studies/mine")


def test_another_model_takes_none_of_the_keys_of_the_base(tmp_path: Path) -> None:
    runs = [{"name": "own base", "base": "motion/conv3d"}, {"name": "key", "overrides": {"model.name": "conv3d"}}]
    for setting in read_study(write(tmp_path, base="motion/cnn_lstm", runs=runs)).settings:
        assert "hidden_size" not in setting.values["model"]
        assert resolve(setting.values).model.name == "conv3d"


def test_what_the_command_line_says_wins(tmp_path: Path) -> None:
    path = write(tmp_path, grid={"optim.lr": [1e-3]})
    study = read_study(path, ["optim.lr=5e-4", "clips.workers=0"], output=tmp_path / "out")
    assert resolve(study.settings[0].values).optim.lr == 5e-4
    assert study.folder == tmp_path / "out"


def test_seeds_and_names_make_folders_found_by_their_recipe(tmp_path: Path) -> None:
    first = jobs_of(read_study(write(tmp_path, runs=[{"name": "a b"}], seeds=[3, 5]), output=tmp_path / "out"))
    assert [job.seed for job in first] == [3, 5]
    assert first[0].folder.name.startswith("a_b_seed3.")
    assert len({job.fingerprint for job in first}) == 2
    first[0].folder.mkdir(parents=True)
    renamed = jobs_of(read_study(write(tmp_path, runs=[{"name": "other"}], seeds=[3]), output=tmp_path / "out"))
    assert renamed[0].folder == first[0].folder
    assert find_run(tmp_path / "out", recipe_fingerprint(renamed[0].recipe)) is not None
    repeated = jobs_of(read_study(write(tmp_path, repeat=3), ["trainer.seed=4"]))
    assert [job.recipe.trainer.seed for job in repeated] == [4, 5, 6]


def test_folds_hold_out_every_group(tmp_path: Path) -> None:
    jobs = jobs_of(read_study(write(tmp_path, folds={"by": "group"}, seeds=[0, 1])))
    assert len(jobs) == 2 * 3  # two training backgrounds and that of the validation split
    assert {job.split for job in jobs} == {"test"}
    assert sorted({job.recipe.data.folds.fold for job in jobs if job.recipe.data.folds}) == [0, 1, 2]
    assert len({job.fold for job in jobs}) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gird": {}}, r"study\.yaml: gird: unknown key; did you mean 'grid'\?"),
        ({"base": None}, r"base: missing; give the name or the path of a recipe"),
        ({"base": "motion/cnn_ltsm"}, r"motion/cnn_ltsm: no such recipe; did you mean"),
        ({"seeds": [0], "repeat": 2}, r"seeds and repeat exclude each other"),
        ({"runs": [{"name": "a"}, {"name": "a"}]}, r"two runs are called 'a'"),
        ({"runs": [{"name": "a", "overrides": {"optim.lrr": 1}}]}, r"^run 'a': optim\.lrr: unknown key"),
        (
            {"overrides": {**BASE["overrides"], "data.num_validation_backgrounds": 0}},
            r"no validation split .*; cut one",
        ),
        ({"space": {"optim.lr": {"low": 2, "high": 1}}}, r"low \(2\) has to be below high \(1\)"),
        ({"folds": {"k": 2}, "split": "test"}, r"split has no meaning with folds"),
        ({"folds": {"k": 2}, "grid": {"data.folds.k": [2]}}, r"^data\.folds\.k: what is held out is what folds: says"),
    ],
)
def test_studies_that_cannot_be(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        jobs_of(read_study(write(tmp_path, **changes)))


def test_crossval_takes_by_k_and_settings() -> None:
    study = crossval_study("motion/frame_average", ["by=group", "k=4", "data.size_px=32"], seeds=[0, 1])
    assert study.file.folds is not None
    assert (study.file.folds.by, study.file.folds.k) == ("group", 4)
    assert study.settings[0].values["data"]["size_px"] == 32
    assert study.folder == crossval_study("motion/frame_average", ["k=4", "by=group", "data.size_px=32"]).folder
    with pytest.raises(ConfigError, match=r"^data\.holdout\.set: what is held out is what by= says"):
        crossval_study("ut_interaction/cnn_lstm", ["by=sequence", "data.holdout.set=[1]"])
    with pytest.raises(ConfigError, match=r"^'kk=4': expected by=COLUMN, k=n or section\.key=value"):
        crossval_study("motion/frame_average", ["kk=4"])


def test_a_result_counts_only_with_its_run(tmp_path: Path) -> None:
    (job,) = jobs_of(read_study(write(tmp_path), output=tmp_path / "out"))
    place = Place(tmp_path / "out")
    record = {"measured": {"validation": {"top1": 0.5}}}
    place.keep_failure(job, "it broke")
    assert place.failure(job) == "it broke"
    place.keep_result(job, record)
    assert place.failure(job) is None
    assert place.result(job) is None  # its folder is gone
    job.folder.mkdir(parents=True)
    assert place.result(job) == record


@pytest.mark.parametrize("name", names())
def test_shipped_studies_are_possible(name: str) -> None:
    study = read_study(name)
    assert study.file.name == name
    assert study.file.about
    for setting in study.settings:
        resolve(setting.values)
    if study.file.source is not None:
        assert study.file.source.rows.keys() <= {setting.name for setting in study.settings}


SIZES = {"verb": 97, "noun": 300, "verb_category": 13}
"""Classes of tasks; others have those of UCF101."""
ASKED = ("epic_phase3", "epic_phase3_motion", "hmdb51_modules", "ucf101_models")
"""A few studies with each kind of setting; all of them take minutes."""


def _see_that_models_can_be_built(studies: Iterable[str]) -> None:
    built = set()
    for name in studies:
        for setting in read_study(name).settings:
            recipe = resolve(setting.values)
            tasks = recipe.data.arguments().get("tasks") or ["action"]
            classes = {task: tuple(map(str, range(SIZES.get(task, 101)))) for task in tasks}
            case = repr((recipe.model, recipe.init, recipe.clips.num_frames, recipe.clips.size_px, list(classes)))
            if case not in built:
                check_buildable(recipe, classes)
            built.add(case)


def test_models_of_shipped_studies_can_be_built() -> None:
    _see_that_models_can_be_built(ASKED)


def test_networks_of_the_ucf101_framework_have_its_parameters() -> None:
    """The numbers that stand in the study's file; LSTMs here have a second bias."""
    study = read_study("ucf101_models")
    assert study.file.source is not None
    total = ("basic_cnn", "vgg", "cnn_lstm")
    found, published = {}, {}
    for setting in study.settings:
        number = study.file.source.rows[setting.name][0]
        if isinstance(number, int):
            recipe = resolve(setting.values)
            model = check_buildable(recipe, {"action": tuple(map(str, range(101)))})
            counted = [p for p in model.parameters() if setting.name in total or p.requires_grad]
            found[setting.name] = sum(parameter.numel() for parameter in counted)
            published[setting.name] = number + (1536 if "lstm" in setting.name else 0)
    assert len(found) == 8
    assert found == published


def test_scaled_down_networks_of_the_ucf101_framework_keep_its_settings() -> None:
    """But for what its file names: epochs with the patience, versions of clips, sizes, one pretrained network."""
    settings = {setting.name: resolve(setting.values) for setting in read_study("ucf101_models").settings}
    scaled = {setting.name: resolve(setting.values) for setting in read_study("ucf101_models_ut_interaction").settings}
    assert settings.keys() - scaled.keys() == {"vgg"}
    for name, ours in scaled.items():
        theirs = settings[name]
        assert ours.task == theirs.task
        assert ours.clips.num_frames == theirs.clips.num_frames
        assert ours.clips.batch_size == theirs.clips.batch_size == 16
        views = {"views": None}
        assert ours.clips.augmentation.model_copy(update=views) == theirs.clips.augmentation.model_copy(update=views)
        assert isinstance(ours.optim.schedule, Plateau)
        assert isinstance(theirs.optim.schedule, Plateau)
        schedule = ours.optim.schedule.model_copy(update={"patience": theirs.optim.schedule.patience})
        assert ours.optim.model_copy(update={"schedule": schedule}) == theirs.optim
        times = {
            o / t
            for o, t in (
                (ours.trainer.epochs, theirs.trainer.epochs),
                (ours.trainer.patience or 0, theirs.trainer.patience or 1),
                (ours.optim.schedule.patience, theirs.optim.schedule.patience),
            )
        }
        assert times == {0.4}
        assert ours.init.freeze == theirs.init.freeze


def test_weights_on_the_command_line_are_for_runs_that_take_some() -> None:
    given = ["init.weights=there.pt", "init.mean=[0, 0, 0]", "init.std=[1, 1, 1]", "optim.lr=3e-4"]
    study = read_study("ucf101_models_ut_interaction", given)
    weights = {setting.name: resolve(setting.values).init.weights for setting in study.settings}
    scratch = {"basic_cnn", "cnn_lstm", "conv3d"}
    assert {name for name, given in weights.items() if given is None} == scratch
    assert all(weights[name] == str(Path("there.pt").absolute()) for name in weights.keys() - scratch)
    assert {resolve(setting.values).optim.lr for setting in study.settings} == {3e-4}


def test_scaled_down_phases_keep_the_schedule() -> None:
    for name, period, patience in (
        ("epic_phase2", 10, 7),
        ("epic_phase2_motion", 4, 3),
        ("epic_phase2_ut_interaction", 10, None),
        ("epic_phase3", 10, 7),
        ("epic_phase3_motion", 4, 3),
    ):
        for setting in read_study(name).settings:
            recipe = resolve(setting.values)
            assert recipe.optim.schedule == CosineRestarts(period_epochs=period)
            assert (recipe.optim.warmup_epochs, recipe.optim.weight_decay) == (0, 1e-4)
            assert recipe.trainer.patience == patience


@pytest.mark.slow
def test_models_of_all_shipped_studies_can_be_built() -> None:
    _see_that_models_can_be_built(names())


def test_a_model_that_cannot_be_built_is_found_before_any_run(tmp_path: Path) -> None:
    model = {"name": "cross_task_attention", "backbone": "tiny", "tokens": "frames", "shared": True}
    runs = [{"name": "good"}, {"name": "bad", "overrides": {"model": model, "data.tasks": ["verb", "noun"]}}]
    study = read_study(write(tmp_path, runs=runs))
    assert len(jobs_of(study)) == 2
    with pytest.raises(ConfigError, match=r"^run 'bad': model\.shared: has no effect with model\.tokens=frames"):
        jobs_of(study, build=["good", "bad"])
    frozen = {"init": {"weights": "nowhere.pt", "freeze": ["resnet50"]}}
    with pytest.raises(ConfigError, match=r"^run 'mine': init\.freeze: this model has no backbone 'resnet50'"):
        jobs_of(read_study(write(tmp_path, overrides={**BASE["overrides"], **frozen})), build=["mine"])


OPTIM = {"optim.weight_decay": 0.2, "optim.clip_norm": 5.0, "optim.schedule": {"name": "step", "factor": 0.5}}


def test_another_optimiser_keeps_the_rest_of_its_section(tmp_path: Path) -> None:
    """As it does in `kinema train ... optim.name=adam`."""
    overrides = {**BASE["overrides"], **OPTIM}
    study = read_study(write(tmp_path, overrides=overrides, grid={"optim.name": ["adamw", "adam", "sgd"]}))
    for setting, name in zip(study.settings, ["adamw", "adam", "sgd"], strict=True):
        optim = resolve(setting.values).optim
        assert (optim.name, optim.lr, optim.weight_decay, optim.clip_norm) == (name, 2e-3, 0.2, 5.0)
        assert (optim.schedule.name, optim.warmup_epochs) == ("step", 1)
    runs = [{"name": "a", "overrides": {"optim": {"name": "sgd", "lr": 0.1, "momentum": 0.8}}}]
    (setting,) = read_study(write(tmp_path, overrides=overrides, runs=runs)).settings
    assert resolve(setting.values).optim.weight_decay == 0.2
    grid = {"optim.name": ["sgd", "adamw"]}
    with pytest.raises(ConfigError, match=r"^run 'a, name=adamw': optim: momentum is of sgd and rmsprop; adamw has"):
        jobs_of(read_study(write(tmp_path, overrides=overrides, runs=runs, grid=grid)))


def test_another_schedule_takes_none_of_the_keys_of_the_one_before(tmp_path: Path) -> None:
    overrides = {**BASE["overrides"], **OPTIM}
    runs = [
        {"name": "another", "overrides": {"optim.schedule.name": "plateau"}},
        {"name": "the same", "overrides": {"optim.schedule.first_epoch": 3}},
    ]
    another, same = (
        resolve(s.values).optim for s in read_study(write(tmp_path, overrides=overrides, runs=runs)).settings
    )
    assert another.schedule == Plateau()
    assert same.schedule == Step(factor=0.5, first_epoch=3)


def test_some_runs_of_a_study_are_chosen_by_name(tmp_path: Path) -> None:
    runs = [{"name": "a, b"}, {"name": "a"}]
    study = read_study(write(tmp_path, runs=runs, grid={"optim.lr": [1e-3, 1e-2]}))
    assert study.chosen(["a, lr=0.01", "a, b"]) == ["a, b, lr=0.001", "a, b, lr=0.01", "a, lr=0.01"]
    with pytest.raises(ConfigError, match=r"^--only: epic_phase1 has no run 'ResNet-50, LTSM'; did you mean 'ResNet"):
        read_study("epic_phase1").chosen(["ResNet-50, LTSM"])


def test_studies_in_the_documentation_are_possible(tmp_path: Path) -> None:
    text = (REPOSITORY / "docs" / "studies.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        (tmp_path / "study.yaml").write_text(block)
        for setting in read_study(str(tmp_path / "study.yaml")).settings:
            resolve(setting.values)


def test_the_documentation_names_every_shipped_study() -> None:
    text = (REPOSITORY / "docs" / "studies.md").read_text(encoding="utf-8")
    for name in names():
        assert f"`{name.removesuffix('_motion').removesuffix('_ut_interaction')}`" in text
