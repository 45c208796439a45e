"""Runs every kind of shipped schedule on a few small portraits: ``python tests/run_schedules.py TRAINER OUT``.

A script of its own, because Lightning starts the other processes of DDP by running the same script again.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from train import train

CONFIGS = Path(__file__).parents[1] / "configs"


ELSEWHERE = ("adapters", "stylegan2", "scalable_face")
"""Schedules (beginnings of their names) that ask for a trained codec or networks of their own."""


def _one_of_each() -> list[str]:
    """Of schedules that go through the same stages, at other lengths and rates of learning, the one that says most."""
    texts = {path.stem: path.read_text() for path in sorted((CONFIGS / "schedule").glob("*.yaml"))}
    chosen: dict[tuple[str, ...], str] = {}
    for name, text in texts.items():
        base = next((other for other in texts if f"- {other}\n" in text), name)
        stages = tuple(line for line in texts[base].splitlines() if "/stage@" in line)
        chosen[stages] = max(chosen.get(stages, name), name, key=lambda each: len(texts[each]))
    return sorted(name for name in chosen.values() if not name.startswith(ELSEWHERE))


SCHEDULES = _one_of_each()
CODEC = "codec={width: 8, latent_channels: 8}"
ORIGINALS = (
    "codec=identity",
    "task@tasks.parsing=segmentation_pixels",
    "+tasks.parsing.head.features.norm=group",
)
TINY = (
    "data={batch_size: 4, num_train: 24, num_val: 5, num_test: 5, num_workers: 0}",
    # An odd share of labels is missing: one process then holds more of them than the other.
    "+data.missing={identity: 0.5}",
    "baselines.jpeg.rates=[20]",
    # For schedules that have one.
    "+network@networks.critic=multiscale_critic_small",
    # Batch norm sees other batches on two processes; everything of our own uses group norm.
    "tasks.identity.head.norm=group",
    "callbacks={reconstructions: null, latent_statistics: null}",
    # In bfloat16 sums in another order differ in the third digit.
    "trainer.precision=32-true",
)


def main(trainer: str, out: str) -> None:
    """Train each schedule for three batches a stage into ``out/<schedule>``."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for schedule in SCHEDULES:
            # Heads alone need a codec that is worth reading.
            codec = ORIGINALS if schedule == "heads" else [CODEC]
            cfg = compose("train", overrides=[f"schedule={schedule}", f"trainer={trainer}", *TINY, *codec])
            for stage in cfg.schedule.values():
                stage.num_batches, stage.num_validations = 3, 1
            OmegaConf.resolve(cfg)
            train(cfg, Path(out) / schedule)


if __name__ == "__main__":
    main(*sys.argv[1:])
