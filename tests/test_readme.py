"""README says what is so: its figures are the record's, its files exist, its config names compose."""

import json
import re
from pathlib import Path

from benchmarks.adaptation import ROWS
from tests.conftest import CONFIGS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PROSE = " ".join(README.split())


def cells_of(title: str) -> list[str]:
    """The cells after the first of the one table row that begins with a title."""
    (line,) = [line for line in README.splitlines() if line.startswith(f"| {title}")]
    return [cell.strip().strip("*") for cell in line.strip("|").split("|")][1:]


def test_the_quickstart_s_table_is_the_record_s() -> None:
    figures = json.loads((ROOT / "benchmarks" / "results" / "main_job.json").read_text())["figures"]
    digits = {"bpp": 3, "bpp_payload": 3, "psnr": 2, "identity": 3, "parsing": 3}
    for lmbda in ("0.0005", "0.0015", "0.005"):
        for run in ("control", "joint"):
            expected = [f"{figures[f'{key}_{run}_{lmbda}']:.{d}f}" for key, d in digits.items()]
            assert cells_of(f"{lmbda}, {run} |") == expected
        shown = [
            f"{figures[f'{key}_difference_{lmbda}']:+.{d}f} ({low:+.{d}f} to {high:+.{d}f})"
            for key, d in digits.items()
            for low, high in [[figures[f"{key}_difference_{lmbda}_{end}"] for end in ("low", "high")]]
        ]
        assert cells_of(f"{lmbda}, difference |") == shown
    for name, form in (
        (
            "bd_rate_identity_bpp",
            "of the identity joint tuning saves {:.0f} % ({:.0f} to {:.0f}) of the bits",
        ),
        (
            "bd_rate_parsing_bpp",
            "of the parsing {:.0f} % ({:.0f} to {:.0f}), which three seeds do not resolve",
        ),
        ("bd_psnr_bpp", "it costs {:.2f} dB ({:.2f} to {:.2f}) of PSNR at equal bits"),
    ):
        assert form.format(*(-figures[name + end] for end in ("", "_high", "_low"))) in PROSE


def test_the_kodak_table_is_the_record_s() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "kodak_anchors.json").read_text())
    figures = record["figures"]
    set_to = {
        row["codec"]: "; ".join(row["settings"].values()) for row in record["rows"] if row["kind"] == "codec"
    }

    def shown(codec: str, anchor: str) -> str:
        if codec == anchor:
            return "0"
        value, low, high = (figures[f"bd_rate_{codec}_vs_{anchor}{end}"] for end in ("", "_low", "_high"))
        return f"{value:+.1f} % ({low:+.1f} to {high:+.1f})"

    for codec in ("vvc", "hevc", "avif", "jpegxl", "jpeg2000", "webp", "jpeg"):
        assert cells_of(f"{codec} |") == [set_to[codec], shown(codec, "hevc"), shown(codec, "vvc")]
    ratios = [figures[f"evaluate_overhead_ratio{end}"] for end in ("_one_worker", "")]
    assert (
        "takes {:.1f} times a bare loop on one core, and {:.1f} times that loop when it may use two".format(
            *ratios
        )
        in PROSE
    )
    assert figures["max_bpp_difference_to_compressai_bench"] < 3.5e-8
    assert figures["max_psnr_difference_to_compressai_bench"] < 5.5e-7


def test_what_is_said_of_starting_is_in_the_record() -> None:
    figures = json.loads((ROOT / "benchmarks" / "results" / "startup.json").read_text())["figures"]
    shown = "`--help` {startup_ratio_help:.1f}, `codec.py compress jpeg` {startup_ratio_jpeg:.1f} and the shipped "
    shown += "codec {startup_ratio_learned:.1f} times"
    assert shown.format(**figures) in PROSE


def test_coding_figures_are_those_of_the_record() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "coding.json").read_text())
    figures = record["figures"]

    def spread(name: str) -> str:
        low, high = figures[f"{name}_low"], figures[f"{name}_high"]
        return f"{figures[name]:.1f} ({low:.1f} to {high:.1f}) times faster"

    for title, name in (
        ("the shipped codec, entropy coding of y", "trained_coder_{}_speedup"),
        ("the shipped codec, picture to file and back", "trained_{}_speedup_fp32"),
        ("the same, our transforms in bf16", "trained_{}_speedup_bf16"),
    ):
        assert cells_of(title) == [spread(name.format(side)) for side in ("encode", "decode")]
    for title, codec in (
        ("bmshj2018-hyperprior, briefly trained", "bmshj2018-hyperprior"),
        ("mbt2018 (serial context), briefly trained", "mbt2018"),
        ("elic2022-official, briefly trained", "elic2022-official"),
    ):
        (row,) = (r for r in record["rows"] if r["kind"] == "whole" and r["codec"] == codec)
        shown = [f"{row['speedup']['fp32'][side]:.1f} times faster" for side in ("encode", "decode")]
        assert cells_of(title) == shown
    low, high = (figures[f"trained_bytes_saved_percent_{end}"] for end in ("low", "high"))
    assert f"take {low:.1f} to {high:.1f} % fewer bytes" in PROSE
    assert f"on each of {figures['trained_photos']} photos" in PROSE
    assert (figures["determinism_ways"], figures["determinism_codecs"]) == (10, 4)
    assert "under ten other ways" in PROSE
    assert "for four codecs, the shipped one" in PROSE
    assert (figures["wrong_photos"], figures["fuzz_failures"], figures["fuzz_codecs"]) == (0, 0, 5)
    mutated = "Of {fuzz_files:,} mutated files of five codecs ({fuzz_files_trained:,} of the shipped one)"
    assert mutated.format(**figures) in PROSE
    assert f"a file adds {figures['bif_overhead_bytes']}." in PROSE
    assert f"takes {100 * figures['analyze_time_ratio']:.0f} % of the time" in PROSE
    assert abs(figures["over_ideal_percent"]) < 0.01
    assert figures["max_estimated_bpp_difference_to_compressai"] < 2e-7
    assert figures["max_psnr_difference_to_compressai"] < 5e-4
    assert figures["max_bpp_difference_to_compressai"] < 5e-4


def test_speed_figures_are_those_of_the_record() -> None:
    figures = json.loads((ROOT / "benchmarks" / "results" / "speed.json").read_text())["figures"]
    section = " ".join(README.partition("## Speed\n")[2].partition("\n## ")[0].split())
    for title, name in (
        ("hyperprior, 128 px, bf16 |", "hyperprior_128"),
        ("hyperprior, 256 px, bf16 |", "hyperprior_256"),
        ("mean-scale hyperprior, 128 px, bf16 |", "mean_scale_128"),
        ("mean-scale hyperprior, 256 px, bf16 |", "mean_scale_256"),
        ("cheng2020-anchor, 128 px, bf16 |", "cheng2020_128"),
        ("hyperprior, 128 px, bf16, compiled |", "hyperprior_128_compiled"),
        ("hyperprior, 128 px, fp32 |", "hyperprior_128_fp32"),
        ("mean-scale hyperprior, 128 px, fp32 |", "mean_scale_128_fp32"),
        ("cheng2020-anchor, 128 px, fp32 |", "cheng2020_128_fp32"),
    ):
        both = [figures[f"step_speedup_{name}{end}"] for end in ("", "_at_equal_memory")]
        assert cells_of(title) == [f"{value:.2f} times" for value in both]
    for sentence in (
        "cost {framework_overhead_ratio:.2f} times a bare loop (at most {framework_overhead_ratio_high:.2f})",
        "on latents {two_tasks_cost_ratio:.2f} times the codec alone",
        "{memory_ratio_bf16:.2f} of CompressAI's ({memory_ratio_bf16_giving_back:.2f} where",
        "differs by {loss_gap_bf16_in_seed_spreads:.2f} of three seeds' spread",
        "alone in float32 by {loss_gap_gdn_in_seed_spreads:.2f} (",
        "as a whole is {quickstart_speedup:.2f} times as fast as before",
        "make it {busy_machine_ratio:.1f} times as long (once of three times {busy_machine_ratio_high:.1f})",
        "loads {loading_speedup_of_keeping:.1f} times as fast over four passes",
        "the shipped codec {shipped_encode_speedup_bf16:.1f} and {shipped_decode_speedup_bf16:.1f} times faster",
        "a hyperprior {hyperprior_encode_speedup_bf16:.1f} and {hyperprior_decode_speedup_bf16:.1f};",
        "in fp32 {shipped_encode_speedup_fp32:.1f} and {shipped_decode_speedup_fp32:.1f}, ",
        "{hyperprior_encode_speedup_fp32:.1f} and {hyperprior_decode_speedup_fp32:.1f}. In fp32",
        "takes {evaluate_overhead_ratio:.2f} times a bare loop",
        "({evaluate_overhead_ratio_at_equal_memory:.2f} times one that keeps memory)",
    ):
        assert sentence.format(**figures) in section
    for model in ("shipped", "hyperprior"):
        shares = [100 * figures[f"{model}_{side}_share_of_floor_fp32"] for side in ("encode", "decode")]
        assert "{:.0f} and {:.0f} %".format(*shares) in section
    assert figures["files_read_to_other_symbols"] == 0
    assert "{bytes_of_bf16_percent:.1f} % of their bytes".format(**figures) in section
    assert figures["best_engine_speedup"] < 1


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


def test_figures_of_every_task_are_those_of_the_record() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "breadth.json").read_text())
    figures = record["figures"]
    section = README.partition("## Every task, on pixels and on latents\n")[2].partition("\n## ")[0]
    for title, name, digits in (
        ("parsing: mIoU | 0.285", "celebamask_miou", 3),
        ("presence: AP", "celebamask_ap", 3),
        ("68 landmarks: NME", "ytfaces_nme", 4),
        ("identity: EER", "ytfaces_eer", 3),
        ("age: error in years", "utkface_mae", 1),
        ("gender: accuracy", "utkface_accuracy", 3),
        ("parsing: mIoU | 0.273", "camvid_miou", 3),
        ("detection: mAP", "bccd_map", 3),
    ):
        (line,) = (line for line in section.splitlines() if title in line)
        cells = [cell.strip() for cell in line.split("|")]
        assert cells[4:6] == [f"{figures[f'{name}_{side}']:.{digits}f}" for side in ("pixels", "latents")]
        if cells[1]:
            assert cells[2] == f"{figures[name.partition('_')[0] + '_bpp']:.3f}"
            assert f"{figures[name.partition('_')[0] + '_num_test']:.0f}" in cells[1]
    text = " ".join(section.split())
    top1 = "{imagenet_top1_lite0:.3f}, {imagenet_top1_lite1:.3f} and {imagenet_top1_lite2:.3f}"
    assert f"900 validation pictures is {top1};".format(**figures) in text
    assert "COCO is {coco_ap_fastestdet:.3f}.".format(**figures) in text
    ladders = {
        (row["set"].partition("_")[0], row["codec"], row["rate"]): row
        for row in record["rows"]
        if row["kind"] == "published"
    }
    for title, codec, rate in (
        ("JPEG 10", "jpeg", 10),
        ("WebP 10", "webp", 10),
        ("AVIF 20", "avif", 20),
        ("HEVC QP 42", "hevc", 42),
        ("VVC (fast) QP 42", "vvc_fast", 42),
    ):
        (line,) = (line for line in section.splitlines() if line.startswith(f"| {title} |"))
        read, found = ladders["imagenet", codec, rate], ladders.get(("coco", codec, rate))
        assert read["num_images"] == 300
        shown = [f"{read['bpp']:.3f}", ", ".join(f"{read['tasks'][f'lite{i}/top1']:.3f}" for i in range(3))]
        shown += [f"{found['bpp']:.3f}", f"{found['tasks']['fastestdet/map']:.3f}"] if found else ["–", "–"]
        assert [cell.strip() for cell in line.split("|")[2:-1]] == shown


def test_figures_of_gain_units_are_those_of_the_record() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "variable_rate.json").read_text())
    of = {key.removeprefix("variable_rate_"): value for key, value in record["figures"].items()}
    section = " ".join(README.partition("## One codec, any rate\n")[2].partition("\n## ")[0].split())
    assert f"`{record['commands'][0]}`" in section
    low, high = of["bd_rate_low"], of["bd_rate_high"]
    assert f"{of['bd_rate_percent']:+.1f} % (95 % interval {low:+.1f} to {high:+.1f}" in section
    for head in ("pixels", "latents"):
        values = [value for key, value in of.items() if key.endswith(f"top1_{head}")]
        assert f"{min(values):.2f} to {max(values):.2f} " in section
    bpp = [value for key, value in of.items() if key.endswith("_bpp")]
    assert f"at {min(bpp):.2f} to {max(bpp):.2f} bpp" in section


def test_figures_of_adaptation_are_those_of_the_record() -> None:
    figures = json.loads((ROOT / "benchmarks" / "results" / "adaptation.json").read_text())["figures"]
    section = README.partition("## Adapt a trained codec\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if "–" in line]
    for row, (_, share, *cells) in zip(ROWS, rows, strict=True):
        of = {key.removeprefix(f"adaptation_{row}_"): value for key, value in figures.items()}
        assert share == f"{of['trainable_percent']:.0f} %"
        measured = (("bpp", 3), ("psnr", 1), ("kl", 2), ("agreement", 2))
        assert cells == [
            f"{of[key]:.{digits}f} ({of[f'{key}_low']:.{digits}f}–{of[f'{key}_high']:.{digits}f})"
            for key, digits in measured
        ]
        assert f"{of['top1']:.2f}" == "0.60"
    assert "right on 0.60 of the scenes" in " ".join(section.split())
