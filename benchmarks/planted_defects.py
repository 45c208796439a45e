"""Whether the tests notice defects that are put in by hand: ``python -m benchmarks.planted_defects [WORD ...]``.

Each defect is one line of the project that says something else, in a copy of it; the tests named beside it must all
fail there, and pass without it. With words, only the defects whose names hold one of them. Status 1 where a
defect goes unnoticed by one of them, or its line is not found any more: then this table is behind the code.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.documents import copy_project


class Defect(NamedTuple):
    """A text of a file, which is there once, what stands there instead, and the tests that must each notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


# fmt: off
EVALUATOR, TURNS = "tests/test_evaluator.py::", "tests/test_turns.py::"
PAID = ("tests/test_paid_layers.py::test_a_task_pays_for_what_it_reads_and_what_that_needs",)
MS_SSIM = ("tests/test_measures.py::test_ms_ssim_is_that_of_the_paper_in_training_and_evaluation",)
DEFECTS = (
    Defect("every row has resamples of its own", "evaluation/rows.py",
           "_image_means(entries, counts)\n",
           "_image_means(entries, bootstrap.resamples(len(entries), num=num_resamples, seed=len(rows)))\n",
           (f"{EVALUATOR}test_rows_share_their_resamples",)),
    Defect("MS-SSIM of 8-bit levels as if white were 1", "evaluation/measures.py",
           "data_range=255.0", "data_range=1.0", MS_SSIM),
    Defect("MS-SSIM trained as if white were 255", "losses/distortion.py",
           "data_range=1.0", "data_range=255.0", MS_SSIM),
    Defect("a head pays for all layers", "evaluation/points.py",
           "return codec.layers_of(self.task.reads if self.reader is None else [\"pixels\"])",
           "return tuple(layer.name for layer in codec.layers)", PAID),
    Defect("a head does not pay for the layers that its own needs", "models/subject.py",
           "return self.needed({*together, *(self.readable[name].layer for name in reads)})",
           "return (*together, *(self.readable[name].layer for name in reads))", PAID),
    Defect("in a run's own test a head pays for all layers", "lightning_modules/compression.py",
           "coded.bits_for(self.subject.layers_of(self.tasks[name].reads))", "coded.file_bits", PAID),
    Defect("the auxiliary loss is never added", "lightning_modules/compression.py",
           'parts["loss"] + self.subject.auxiliary_loss().to(parts["loss"])', 'parts["loss"]',
           (f"{TURNS}test_one_update_adds_the_auxiliary_loss_as_several_do",
            f"{TURNS}test_turns_are_what_a_loop_by_hand_does")),
    Defect("decoding is timed without g_s", "evaluation/evaluator.py",
           'parse(data)], want=("pixels",))', 'parse(data)], want=("latents",))',
           (f"{EVALUATOR}test_seconds_hold_the_transforms",)),
    Defect("a run goes on from its best state", "lightning_modules/schedule.py",
           "ckpt_path=saving.last if", 'ckpt_path=saving.folder / "best.ckpt" if',
           ("tests/test_stages.py::test_a_run_goes_on_from_its_last_state_not_from_its_best",)),
    Defect("rates of learning stay as they are", "lightning_modules/updates.py",
           "[lambda step: value_at(self.lr_schedule, progress())]", "[lambda step: 1.0]",
           (f"{TURNS}test_schedules_end_with_the_stage_however_many_batches_a_step_takes",
            f"{TURNS}test_turns_are_what_a_loop_by_hand_does")),
    Defect("no BD-rate is ever found", "evaluation/curves/comparison.py",
           '"bd_rate_percent": whole.bd_rate_percent,', '"bd_rate_percent": None,',
           ("tests/test_evaluate.py::test_a_sweep_is_one_curve",)),
    Defect("an image that a codec fails on counts for the others", "evaluation/evaluator.py",
           "for index, d in self.digests.items() if index not in images", "for index, d in self.digests.items()",
           (f"{EVALUATOR}test_an_image_that_a_codec_fails_on_is_left_out_for_all",)),
)
# fmt: on


def failing(copy: Path, tests: Sequence[str]) -> list[str]:
    """Those of the tests that fail in a copy of the project.

    Raises:
        RuntimeError: pytest came to no verdict.
    """
    failed = []
    for test in tests:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
        if done.returncode not in (0, 1):
            raise RuntimeError(f"{test}: pytest gave {done.returncode}: {done.stdout[-500:]}")
        failed += [test] * done.returncode
    return failed


def main(words: Sequence[str]) -> int:
    """Plant each defect, print what became of it, return the status."""
    chosen = [d for d in DEFECTS if not words or any(word in d.name for word in words)]
    unnoticed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_project(Path(folder) / "project")
        if failed := failing(copy, list(dict.fromkeys(test for d in chosen for test in d.tests))):
            print(f"without any defect these fail: {', '.join(failed)}")
            return 1
        for defect in chosen:
            file = copy / defect.file
            text = file.read_text()
            if (count := text.count(defect.old)) != 1:
                verdict = f"{defect.file} has its text {count} times, not once"
            else:
                file.write_text(text.replace(defect.old, defect.new))
                passed = set(defect.tests) - set(failing(copy, defect.tests))
                verdict = f"NOT NOTICED by {', '.join(sorted(passed))}" if passed else "noticed"
                file.write_text(text)
            unnoticed += verdict != "noticed"
            print(f"{defect.name}: {verdict}", flush=True)
    print(f"{len(chosen) - unnoticed} of {len(chosen)} noticed")
    return int(unnoticed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
