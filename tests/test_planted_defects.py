"""benchmarks/planted_defects.py, which takes minutes, speaks of the code and the tests that there are."""

import pytest

from benchmarks.planted_defects import DEFECTS, Defect
from tests.documents import ROOT


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_a_planted_defect_has_its_place_and_its_tests(defect: Defect) -> None:
    assert (ROOT / defect.file).read_text().count(defect.old) == 1, f"{defect.file} changed: mend the table"
    assert defect.tests
    for test in defect.tests:
        file, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text()
