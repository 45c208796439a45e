"""docs/systems.md says what is so: its figures are the records'."""

import json
from pathlib import Path

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
            expected += ["–"] * 3
        else:
            expected += [
                f"{of[f'utkface_payload_bits_{utkface}']:.0f}",
                f"{of[f'utkface_age_mae_{utkface}{heads}']:.2f}",
                f"{of[f'utkface_gender_{utkface}{heads}']:.2f}",
            ]
        assert cells_of(title) == expected
    for name in ("best_standard", "rgb", "single_stream"):
        for metric in ("ytfaces_nme", "utkface_age_mae"):
            key = f"{metric}_gap_to_{name}_003"
            assert f"{of[key]:+.2f} ({of[f'{key}_low']:+.2f} to {of[f'{key}_high']:+.2f})" in PROSE
    for key in ("ytfaces_gmsd_joint_003", "ytfaces_gmsd_hevc_half_qp51", "ytfaces_gmsd_vvc_half_qp52"):
        assert f"{of[key]:.3f}" in PROSE
    costs = of["analyze_macs_ratio"], of["analyze_seconds_ratio"]
    assert (
        "takes {:.2f} of the multiply-accumulates of a decode and its analysis and {:.2f} of".format(*costs)
        in PROSE
    )
    assert of["ytfaces_files_identical_share"] == of["utkface_files_identical_share"] == 1
    assert f"`{record['commands'][0]}`" in PROSE


def test_figures_of_the_filter_are_those_of_the_record() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "preprocessing.json").read_text())
    figures = record["figures"]
    for title, name in (
        ("the filter, against JPEG |", "bd_rate_imagenet_jpeg_{}_kl"),
        (
            "the filter at two sizes, against JPEG at three |",
            "bd_rate_imagenet_jpeg_{}_kl_scaled_vs_best_simple",
        ),
        ("filter and ten steps, against JPEG |", "refined_bd_rate_imagenet_jpeg_{}_kl"),
        ("filter and ten steps at two sizes, against JPEG |", "refined_bd_rate_imagenet_jpeg_{}_kl_scaled"),
        ("a Gaussian blur, against JPEG |", "gaussian_bd_rate_imagenet_jpeg_{}_kl"),
        ("the filter, against HEVC |", "bd_rate_imagenet_hevc_{}_kl"),
        (
            "the filter at two sizes, against HEVC at two |",
            "bd_rate_imagenet_hevc_{}_kl_scaled_vs_best_simple",
        ),
        ("a Gaussian blur, against HEVC |", "gaussian_bd_rate_imagenet_hevc_{}_kl"),
    ):
        names = [name.format(head) for head in ("lite0", "lite1_unseen", "lite2_unseen")]
        assert cells_of(title) == [
            f"{figures[name]:+.1f} % ({figures[f'{name}_ci_low']:+.1f} to {figures[f'{name}_ci_high']:+.1f})"
            for name in names
        ]
    assert f"`{record['commands'][0]}`" in PROSE


def test_figures_of_faces_are_those_of_the_record() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "scalable_face.json").read_text())
    of = record["figures"]
    for said in (
        f"the basic layer takes {of['bits_basic_164']:.0f} payload bits a face",
        f"landmarks within {of['nme_basic_164']:.1f} % of",
        f"VVC at its lowest quality has {of['nme_vvc_qp63']:.1f} % for {of['bits_vvc_qp63']:.0f} bits",
        f"the average face {of['nme_average_face']:.1f} %",
        f"(rank-1 {of['rank1_all_655']:.2f} for all layers, {of['bits_all_655']:.0f} bits)",
        f"{of['nme_vvc_qp57']:.1f} % and {of['rank1_vvc_qp57']:.2f} for {of['bits_vvc_qp57']:,.0f} bits",
        f"saves {of['entropy_transformer_saving_percent']:.1f} % against",
        f"a linear model {of['entropy_linear_saving_percent']:.1f} %",
        f"`{record['commands'][0]}`",
    ):
        assert said in PROSE, said
