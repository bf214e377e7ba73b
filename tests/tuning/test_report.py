"""What a training says: its report, its warnings, its curves."""

import json

import numpy as np
import pytest
from PIL import Image, ImageColor

from pixtral_mlx.cli.tune import warnings
from pixtral_mlx.tuning.curves import RIGHT, VALID
from pixtral_mlx.tuning.validation import paired


def test_the_report_says_what_it_did(taught):
    report = json.loads((taught.folder / "report.json").read_text())
    assert report == json.loads(json.dumps(taught.report))
    assert [each["step"] for each in report["validations"]] == [0, 3, 6]
    assert report["validations"][-1]["loss"] < report["validations"][0]["loss"]
    assert report["encoder"]["before"] == report["encoder"]["after"] != ""
    assert report["trained"] == 81920 and report["rows"][0] > 20
    assert report["answers"] == 12 == report["rows"][1]
    assert report["right"] - report["right_before"] == (
        report["became_right"] - report["became_wrong"]
    )
    assert len(report["samples"]) == 4 and report["samples"][0]["question"]
    assert not (taught.folder / "pictures").exists() and report["pictures"] > 10


def test_warnings_of_a_report(taught):
    report = taught.report
    worse = {**report, "validations": [{"loss": 1.0}, {"loss": 1.1}], "p": 0.5, "right": 99}
    worse["encoder"] = {"before": "a", "after": "b"}
    said = " ".join(warnings(worse))
    assert "higher than before" in said and "chance" in said and "must not" in said


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [
        ([0] * 5, [1] * 5, (5, 0, 0.0625)),
        ([1, 0, 1, 0], [1, 0, 1, 0], (0, 0, 1.0)),
        ([1, 1, 0, 0, 0], [0, 1, 1, 1, 1], (3, 1, 0.625)),
    ],
)
def test_paired_test(before, after, wanted):
    assert paired(before, after) == pytest.approx(wanted)


def test_the_curves_are_drawn(taught):
    picture = np.array(Image.open(taught.folder / "curves.png"))
    for colour in (VALID, RIGHT):
        where = (picture == ImageColor.getrgb(colour)).all(-1)[60:]
        assert np.flatnonzero(where.any(0))[-1] - np.flatnonzero(where.any(0))[0] > 700
    # The curve of the validation falls, that of right answers starts above it.
    right = (picture == ImageColor.getrgb(RIGHT)).all(-1)[65:280, 60:840]
    height = right.shape[0] * (1 - taught.report["validations"][0]["accuracy"])
    assert abs(np.flatnonzero(right[:, 1])[0] - height) < 8
