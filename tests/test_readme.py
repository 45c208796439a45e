"""README says what is so: its figures are the record's, its files exist, its config names compose."""

import json
import re
from pathlib import Path

import pytest

from tests.conftest import CONFIGS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_figures_are_those_of_the_record() -> None:
    figures = json.loads((ROOT / "benchmarks" / "results" / "main_job.json").read_text())["figures"]
    for title, name in (
        ("heads on the rate-distortion codec", "rd_codec"),
        ("the same, trained as long as joint", "control"),
        ("**jointly tuned**", "joint"),
    ):
        (line,) = [line for line in README.splitlines() if line.startswith(f"| {title}")]
        cells = [cell.strip().strip("*") for cell in line.strip("|").split("|")][1:]
        keys = ("bpp", "bpp_payload", "psnr", "identity", "parsing")
        digits = (3, 3, 2, 3, 3)
        assert cells == [
            f"{figures[f'quickstart_{k}_{name}']:.{d}f}" for k, d in zip(keys, digits, strict=True)
        ]


def test_coding_figures_are_those_of_the_record() -> None:
    figures = json.loads((ROOT / "benchmarks" / "results" / "coding.json").read_text())["figures"]
    for title, name in (
        ("entropy coding of y", "coder_{side}_speedup"),
        ("picture to file and back", "{side}_speedup_fp32"),
        ("the same with bf16", "{side}_speedup_bf16"),
    ):
        (line,) = [line for line in README.splitlines() if line.startswith(f"| {title}")]
        shown = [float(cell.split()[0]) for cell in line.strip("|").split("|")[1:]]
        expected = [figures[name.format(side=side)] for side in ("encode", "decode")]
        assert shown == pytest.approx(expected, rel=0.02)
    assert (figures["wrong_photos"], figures["fuzz_failures"], figures["fuzz_files"]) == (0, 0, 100_000)
    assert f"a file adds {figures['bif_overhead_bytes']}." in README
    assert f"takes {figures['analyze_time_ratio']:.2f} of" in README


def test_what_is_said_of_kills_is_in_the_record() -> None:
    figures = json.loads((ROOT / "benchmarks" / "results" / "seam.json").read_text())["figures"]
    assert f"After {figures['kills']} kills at random moments" in README
    assert figures["resume_max_difference"] == 0
    assert figures["quickstart_max_weight_difference"] == 0
    assert figures["two_process_max_difference"] < 2e-5
    assert figures["symbol_flip_probability_attention"] < 1e-8


def test_the_six_files_can_be_read_in_half_an_hour() -> None:
    section = README.partition("## Read these six files first")[2].partition("## ")[0]
    files = re.findall(r"`([\w/]+\.py)`", section)
    lengths = {file: len((ROOT / file).read_text().splitlines()) for file in files}
    assert len(lengths) == 6
    assert max(lengths.values()) <= 300, lengths
    assert sum(lengths.values()) <= 1250, lengths


def test_pictures_and_links_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README) + re.findall(r"`([\w/]+\.py)`", README)
    assert links
    assert not [link for link in links if "://" not in link and not (ROOT / link).exists()]


def test_names_on_command_lines_are_there() -> None:
    for group, name in re.findall(r"\b(experiment|codec|trainer|callbacks|logger)=(\w+)", README):
        assert (CONFIGS / group / f"{name}.yaml").is_file(), f"{group}={name}"
    for target in re.findall(r"`make ([\w-]+)`|^make ([\w-]+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{''.join(target)}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE), target
