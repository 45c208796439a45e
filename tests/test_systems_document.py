"""docs/systems.md says what is so: its figures are the records'."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "systems.md").read_text()
PROSE = " ".join(DOCUMENT.split())


def cells_of(title: str) -> list[str]:
    """The cells after the first of the one table row that begins with a title."""
    (line,) = [line for line in DOCUMENT.splitlines() if line.startswith(f"| {title}")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_figures_of_streams_are_those_of_the_record() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "layered_generative.json").read_text())
    of = record["figures"]
    for title, ytfaces, utkface, heads in (
        ("originals, by", "rgb", "rgb", ""),
        ("the streams, learned", "joint_003", "joint_003", ""),
        ("the streams of a codec", "separate_003", "separate_003", ""),
        ("one stream,", "single_stream_003", "single_stream_003", ""),
        ("HEVC of half-size pictures,", "hevc_half_qp51", "hevc_half_qp48", "_heads_of_originals"),
        ("the same, heads tuned", "hevc_half_qp51", "hevc_half_qp48", "_heads_of_decodes"),
        ("VVC of half-size pictures,", "vvc_half_qp52", None, "_heads_of_decodes"),
        ("results, predicted", "predict_and_transmit", "predict_and_transmit", ""),
    ):
        expected = [
            f"{of[f'ytfaces_payload_bits_{ytfaces}']:.0f}",
            f"{of[f'ytfaces_bits_{ytfaces}']:.0f}",
            f"{of[f'ytfaces_nme_{ytfaces}{heads}']:.2f}",
        ]
        if utkface is None:
            expected += ["–"] * 4
        else:
            expected += [
                f"{of[f'utkface_payload_bits_{utkface}']:.0f}",
                f"{of[f'utkface_bits_{utkface}']:.0f}",
                f"{of[f'utkface_age_mae_{utkface}{heads}']:.2f}",
                f"{of[f'utkface_gender_{utkface}{heads}']:.2f}",
            ]
        assert cells_of(title) == expected
    for name in ("best_standard", "rgb", "single_stream"):
        for metric in ("ytfaces_nme", "utkface_age_mae"):
            key = f"{metric}_gap_to_{name}_003"
            assert f"{of[key]:+.2f} ({of[f'{key}_low']:+.2f} to {of[f'{key}_high']:+.2f})" in PROSE
    for form in (
        "GMSD {ytfaces_gmsd_joint_003:.3f} against {ytfaces_gmsd_hevc_half_qp51:.3f} "
        "(VVC {ytfaces_gmsd_vvc_half_qp52:.3f}) and "
        "{utkface_gmsd_joint_003:.3f} against {utkface_gmsd_hevc_half_qp48:.3f}",
        "PSNR {ytfaces_psnr_joint_003:.1f} dB against {ytfaces_psnr_hevc_half_qp51:.1f} and "
        "{utkface_psnr_joint_003:.1f} against {utkface_psnr_hevc_half_qp48:.1f}",
    ):
        assert form.format(**of) in PROSE
    key = "utkface_gender_gap_to_best_standard_003"
    assert f"{of[key]:+.3f} ({of[f'{key}_low']:+.3f} to {of[f'{key}_high']:+.3f})" in PROSE
    costs = of["analyze_macs_ratio"], of["analyze_seconds_ratio"]
    assert (
        "takes {:.2f} of the multiply-accumulates of a decode and its analysis and {:.2f} of".format(*costs)
        in PROSE
    )
    assert of["ytfaces_files_identical_share"] == of["utkface_files_identical_share"] == 1
    assert f"`{record['commands'][0]}`" in PROSE


NETWORKS = "bd_rate_imagenet_{standard}_{judge}_kl", ("lite0", "lite1_unseen", "lite2_unseen")
DETECTORS = (
    "bd_rate_coco_{standard}_{judge}", ("fastestdet_self_map", "ssd_unseen_self_map", "fastestdet_ap")
)  # fmt: skip


@pytest.mark.parametrize(
    ("title", "columns", "standard", "codec", "ending"),
    [
        ("the filter, against JPEG |", NETWORKS, "jpeg", "", ""),
        ("the filter, against JPEG at three |", NETWORKS, "jpeg", "", "_vs_best_simple"),
        ("the filter at two sizes, against JPEG at three |", NETWORKS, "jpeg", "", "_scaled_vs_best_simple"),
        ("the filter, against the blur |", NETWORKS, "jpeg", "", "_vs_gaussian"),
        ("filter and ten steps, against JPEG |", NETWORKS, "jpeg", "refined_", ""),
        ("filter and ten steps at two sizes, against JPEG |", NETWORKS, "jpeg", "refined_", "_scaled"),
        (
            "filter and ten steps at two sizes, against JPEG at three |",
            NETWORKS,
            "jpeg",
            "refined_",
            "_scaled_vs_best_simple",
        ),
        ("a Gaussian blur, against JPEG |", NETWORKS, "jpeg", "gaussian_", ""),
        ("the filter, against HEVC |", NETWORKS, "hevc", "", ""),
        ("the filter at two sizes, against HEVC at two |", NETWORKS, "hevc", "", "_scaled_vs_best_simple"),
        ("a Gaussian blur, against HEVC |", NETWORKS, "hevc", "gaussian_", ""),
        ("the filter, against the blur before HEVC |", NETWORKS, "hevc", "", "_vs_gaussian"),
        ("before JPEG: the filter |", DETECTORS, "jpeg", "", ""),
        ("the filter at two sizes |", DETECTORS, "jpeg", "", "_scaled"),
        ("the same, against JPEG at two |", DETECTORS, "jpeg", "", "_scaled_vs_best_simple"),
        ("a Gaussian blur |", DETECTORS, "jpeg", "gaussian_", ""),
        ("before HEVC: the filter |", DETECTORS, "hevc", "", ""),
        ("the filter at two sizes, HEVC |", DETECTORS, "hevc", "", "_scaled"),
        ("the same, against HEVC at two |", DETECTORS, "hevc", "", "_scaled_vs_best_simple"),
        ("a Gaussian blur, HEVC |", DETECTORS, "hevc", "gaussian_", ""),
    ],
)
def test_a_filter_s_row_is_the_record_s(
    title: str, columns: tuple[str, Sequence[str]], standard: str, codec: str, ending: str
) -> None:
    figures = json.loads((ROOT / "benchmarks" / "results" / "preprocessing.json").read_text())["figures"]
    form, judges = columns
    names = [codec + form.format(standard=standard, judge=judge) + ending for judge in judges]
    assert cells_of(title) == [
        f"{figures[name]:+.1f} % ({figures[f'{name}_ci_low']:+.1f} to {figures[f'{name}_ci_high']:+.1f})"
        for name in names
    ]


def test_what_is_said_of_filters_is_the_record_s() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "preprocessing.json").read_text())
    of = record["figures"]
    modes = ("real_forward", "proxy_only", "straight_through", "one_filter_per_quality")
    assert "{:.1f}, {:.1f}, {:.1f} and {:.1f} %".format(*(of[f"bd_rate_{mode}"] for mode in modes)) in PROSE
    assert f"{of['proxy_psnr_jpeg']:.1f} dB" in PROSE
    psnr, error = of["proxy_psnr_hevc"], of["proxy_bits_error_percent_hevc"]
    assert f"{psnr:.1f} dB, and {error:.0f} % off in bits" in PROSE
    assert f"{of['refine_seconds_per_image']:.1f} s a picture" in PROSE
    assert (
        "{:.2f} (JPEG) and {:.2f} (WebP)".format(*(of[f"step_cost_ratio_{c}"] for c in ("jpeg", "webp")))
        in PROSE
    )
    assert f"`{record['commands'][0]}`" in PROSE


def test_figures_of_faces_are_those_of_the_record() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "scalable_face.json").read_text())
    of = record["figures"]
    for said in (
        f"basic layer takes {of['bits_basic_164']:.0f} payload bits a face",
        f"landmarks within {of['nme_basic_164']:.1f} %",
        f"VVC at its lowest quality has {of['nme_vvc_qp63']:.1f} % for {of['bits_vvc_qp63']:.0f} bits",
        f"the average face {of['nme_average_face']:.1f} %",
        f"(rank-1 {of['rank1_all_655']:.2f} for all layers, {of['bits_all_655']:.0f} bits; "
        f"VVC's lowest quality has {of['rank1_vvc_qp63']:.2f})",
        f"GMSD: {of['gmsd_all_655']:.3f} against {of['gmsd_vvc_qp63']:.3f}",
        f"{of['nme_vvc_qp57']:.1f} % and {of['rank1_vvc_qp57']:.2f} for {of['bits_vvc_qp57']:,.0f} bits",
        f"saves {of['entropy_transformer_saving_percent']:.1f} % against",
        f"a linear model {of['entropy_linear_saving_percent']:.1f} %",
        f"`{record['commands'][0]}`",
    ):
        assert said in PROSE, said
