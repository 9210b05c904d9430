"""Where each data set comes from and under which licence. Nothing is fetched here.

Sizes and checksums are those that somebody published for the file at that very address, and the comment says who; where
nobody did, they are None. Nothing here was measured by kinema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from kinema import registry
from kinema.registry import suggest
from kinema.types import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file on somebody's server.

    Attributes:
        url: Its address. The last part of it is the name that it gets.
        num_bytes: Its size, where it is published.
        checksum: `sha256:...` or `md5:...`, where one is published.
    """

    url: str
    num_bytes: int | None = None
    checksum: str | None = None

    @property
    def name(self) -> str:
        return urlsplit(self.url).path.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What is fetched together.

    Attributes:
        name: What `--only` calls it.
        files: An archive, or files that are used as they are.
        folder: Name of the folder in the root that the archive becomes, or that the files are put in.
        archive: Whether it is one archive, to be unpacked.
        nested: Whether the archive holds archives in turn, to be unpacked as well.
        annotations: Whether it is the lists, which may also lie elsewhere (`data.annotations`).
    """

    name: str
    files: tuple[File, ...]
    folder: str
    archive: bool = True
    nested: bool = False
    annotations: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a data set comes from.

    Attributes:
        title: Its name as its makers write it.
        page: Address of its makers' page.
        licence: What one may do with it, in a few words.
        licence_url: Address of the whole text, or of the page where the makers say what they say.
        parts: What kinema fetches, the small ones first.
        by_hand: Name of a part that kinema does not fetch -> why, and how to get it, one line each.
    """

    title: str
    page: str
    licence: str
    licence_url: str
    parts: tuple[Part, ...] = ()
    by_hand: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


_CRCV = "https://www.crcv.ucf.edu/data/UCF101"
_SERRE = "https://huggingface.co/datasets/Serrelab/hmdb51/resolve/main"
_STANFORD = "http://vision.stanford.edu/Datasets"  # as the makers write it, without encryption
_EPIC = "https://raw.githubusercontent.com/epic-kitchens"
_BY_NC = "https://creativecommons.org/licenses/by-nc/4.0/"


def _epic_files(edition: int, names: Sequence[str]) -> tuple[File, ...]:
    # The makers publish neither sizes nor checksums, and correct the lists now and then.
    return tuple(File(url=f"{_EPIC}/epic-kitchens-{edition}-annotations/master/{name}") for name in names)


def _epic(edition: int, names: Sequence[str], option: str) -> Source:
    return Source(
        title=f"EPIC-KITCHENS-{edition}",
        page="https://epic-kitchens.github.io",
        licence=(
            "Annotations and videos are under CC BY-NC 4.0: credit the makers, no commercial use. "
            "The makers grant other licences: uob-epic-kitchens@bristol.ac.uk"
        ),
        licence_url=_BY_NC,
        parts=(
            Part(
                name="annotations",
                files=_epic_files(edition, names),
                folder=f"epic-kitchens-{edition}-annotations",
                archive=False,
                annotations=True,
            ),
        ),
        by_hand={
            "videos": (
                "Videos and frames are hundreds of gigabytes at data.bris.ac.uk. The makers' own script fetches them;",
                "it knows participants, splits, corrected files and checksums, and goes on where it stopped:",
                "  git clone https://github.com/epic-kitchens/epic-kitchens-download-scripts",
                "  cd epic-kitchens-download-scripts",
                f"  python epic_downloader.py --videos {option}--participants P01,P02 --output-path DIR",
                "Without --participants it fetches all of them. Give DIR/EPIC-KITCHENS as ROOT, here and everywhere.",
            )
        },
    )


def _kinetics(classes: int, folder: str) -> Source:
    return Source(
        title=f"Kinetics-{classes}",
        page="https://github.com/cvdfoundation/kinetics-dataset",
        licence="The lists are under CC BY 4.0; the videos belong to those who put them on YouTube.",
        licence_url="https://creativecommons.org/licenses/by/4.0/",
        by_hand={
            "videos": (
                "Kinetics is a list of YouTube videos. YouTube's terms do not allow a program to fetch them.",
                "The Common Visual Data Foundation hosts a copy with the official lists and scripts that fetch it:",
                "  https://github.com/cvdfoundation/kinetics-dataset",
                f"Its files are below https://s3.amazonaws.com/kinetics/{folder}/ (train, val, test, annotations).",
                "Whether you may use the videos is for you to decide.",
            )
        },
    )


SOURCES: Mapping[str, Source] = {
    "ucf101": Source(
        title="UCF101",
        page="https://www.crcv.ucf.edu/data/UCF101.php",
        licence=(
            "No licence text is known; ask its makers. The videos come from YouTube and belong to "
            "those who put them there. Cite Soomro, Zamir and Shah, CRCV-TR-12-01, 2012"
        ),
        licence_url="https://www.crcv.ucf.edu/data/UCF101.php",
        parts=(
            Part(
                name="lists",
                # Size and checksum: tensorflow_datasets; the same checksum in torchvision's prototype data sets.
                files=(
                    File(
                        url=f"{_CRCV}/UCF101TrainTestSplits-RecognitionTask.zip",
                        num_bytes=113_943,
                        checksum="sha256:5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27",
                    ),
                ),
                folder="ucfTrainTestlist",
                annotations=True,
            ),
            Part(
                name="videos",
                # Checksum: torchvision's prototype data sets. Size: what the server has told people (6.9 GB).
                files=(
                    File(
                        url=f"{_CRCV}/UCF101.rar",
                        num_bytes=6_932_971_618,
                        checksum="sha256:ca8dfadb4c891cb11316f94d52b6b0ac2a11994e67a0cae227180cd160bd8e55",
                    ),
                ),
                folder="UCF-101",
            ),
        ),
    ),
    "hmdb51": Source(
        title="HMDB51",
        page="https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/",
        licence="CC BY 4.0: credit the makers. Cite Kuehne, Jhuang, Garrote, Poggio and Serre, ICCV 2011",
        licence_url="https://creativecommons.org/licenses/by/4.0/",
        # The lab's server no longer has the files (.../wp-content/uploads/2013/10/...); this is the lab's own copy.
        # torchvision knows checksums of the files at the old address; nobody has published any for these.
        parts=(
            Part(
                name="lists",
                files=(File(url=f"{_SERRE}/test_train_splits.rar"),),
                folder="testTrainMulti_7030_splits",
                annotations=True,
            ),
            Part(
                name="videos",
                files=(File(url=f"{_SERRE}/hmdb51_org.rar"),),
                folder="hmdb51_org",
                nested=True,
            ),
        ),
    ),
    "stanford40": Source(
        title="Stanford 40 Actions",
        page=f"{_STANFORD}/40actions.html",
        licence=(
            "No licence text is known; ask its makers. The pictures come from the web and belong to "
            "those who made them. Cite Yao, Jiang, Khosla, Lin, Guibas and Fei-Fei, ICCV 2011"
        ),
        licence_url=f"{_STANFORD}/40actions.html",
        parts=(
            Part(
                name="lists",
                files=(File(url=f"{_STANFORD}/Stanford40_ImageSplits.zip"),),
                folder="ImageSplits",
                annotations=True,
            ),
            Part(name="images", files=(File(url=f"{_STANFORD}/Stanford40_JPEGImages.zip"),), folder="JPEGImages"),
        ),
    ),
    "epic_kitchens_100": _epic(
        100,
        (
            "EPIC_100_train.csv",
            "EPIC_100_validation.csv",
            "EPIC_100_test_timestamps.csv",
            "EPIC_100_verb_classes.csv",
            "EPIC_100_noun_classes.csv",
            "EPIC_100_noun_classes_v2.csv",
            "EPIC_100_tail_verbs.csv",
            "EPIC_100_tail_nouns.csv",
            "EPIC_100_unseen_participant_ids_validation.csv",
            "EPIC_100_unseen_participant_ids_test.csv",
            "EPIC_100_video_info.csv",
            "license.txt",
        ),
        "",
    ),
    "epic_kitchens_55": _epic(
        55,
        (
            "EPIC_train_action_labels.csv",
            "EPIC_test_s1_timestamps.csv",
            "EPIC_test_s2_timestamps.csv",
            "EPIC_verb_classes.csv",
            "EPIC_noun_classes.csv",
            "EPIC_many_shot_verbs.csv",
            "EPIC_many_shot_nouns.csv",
            "EPIC_video_info.csv",
            "LICENSE.txt",
        ),
        "--epic55-only ",
    ),
    "kinetics400": _kinetics(400, "400"),
    "kinetics600": _kinetics(600, "600"),
    "kinetics700": _kinetics(700, "700_2020"),
}
"""By the name of the data set's function."""

_NOTHING_TO_FETCH: Mapping[str, str] = {
    "motion": "makes its own videos; give data.root an empty folder and train",
    "folder": "is for your own videos; there is nothing to download",
    "table": "is for your own videos; there is nothing to download",
}


def find_source(name: str, *, key: str) -> Source:
    """Where a data set comes from.

    Args:
        name: A data set.
        key: What the error message calls the name.

    Raises:
        ConfigError: There is no such data set, or it is not known where it comes from.
    """
    if name in SOURCES:
        return SOURCES[name]
    registry.entry("dataset", name, key=key)
    reason = _NOTHING_TO_FETCH.get(name, "does not say where it can be downloaded; fetch it by hand")
    raise ConfigError(f"{key}: {name} {reason}")


def choose_parts(name: str, source: Source, only: Sequence[str] = ()) -> tuple[Part, ...]:
    """The parts to fetch: all that kinema fetches, or those that are named.

    Raises:
        ConfigError: There is no such part, or kinema does not fetch it.
    """
    parts = {part.name: part for part in source.parts}
    for wanted in only:
        if wanted not in parts and wanted not in source.by_hand:
            raise ConfigError(f"--only: {name} has no part {wanted!r}{suggest(wanted, [*parts, *source.by_hand])}")
    refused = [wanted for wanted in only or (() if parts else source.by_hand) if wanted in source.by_hand]
    if refused:
        raise ConfigError(
            f"{name}: the {refused[0]} are not fetched by kinema but by hand, from {source.page}; nothing was fetched"
        )
    return tuple(part for part in source.parts if not only or part.name in only)
