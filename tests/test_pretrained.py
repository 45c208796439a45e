"""Runs, checkpoints and model folders load to what was trained, without the training part, and say what is wrong."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import instantiate
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from evaluation.measures import picture_quality
from models.codecs.compressai_weights import load_compressai
from models.heads.backbones import create_backbone
from models.pretrained import Pretrained, from_pretrained, load, save_pretrained
from models.pretrained.folder import written_whole
from tests.conftest import compose_config
from tests.tiny_run import SMALL, train_small

ROOT = Path(__file__).parents[1]
JOINT = Path("stages", "03-joint", "checkpoints")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_small(tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture(scope="module")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pretrained(load(run), tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def picture() -> Tensor:
    return torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(0))


def files(model: Pretrained, images: Tensor) -> list[bytes]:
    return [model.codec.serialise(b) for b in model.codec.compress(images)]


def predictions(model: Pretrained, images: Tensor) -> dict[str, Tensor]:
    output = model.codec.decompress(model.codec.compress(images))
    return {name: task.predict(output) for name, task in model.tasks.items()}


def weights(model: Pretrained) -> dict[str, Tensor]:
    parts = {"codec": model.codec, **{f"tasks.{name}": task for name, task in model.tasks.items()}}
    return {f"{part}.{name}": p for part, module in parts.items() for name, p in module.named_parameters()}


def edited(source: Path, target: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of a checkpoint with something changed."""
    content = torch.load(source, weights_only=True)
    change(content)
    torch.save(content, target)
    return target


# -- what is loaded ------------------------------------------------------------------------------------------------


def test_a_run_is_what_its_last_stage_tested(run: Path) -> None:
    """The loaded model, evaluated again, gives the figures of summary.json: averaged weights, right labels and all."""
    model = load(run)
    assert model.source == run / JOINT / "last.ckpt"
    assert set(model.tasks) == {"identity", "parsing"}
    assert not any(m.training for part in (model.codec, *model.tasks.values()) for m in part.modules())
    data = instantiate(compose_config(*SMALL).data)
    split = data.split("test")
    bits, psnrs, right = [], [], 0
    for i in range(len(split)):
        sample = split.read(i)
        x = sample["image"][None].float() / 255
        output = model.codec.decompress(model.codec.compress(x))
        bits.append(8 * len(files(model, x)[0]) / (32 * 32))
        psnrs.append(picture_quality(output, x)["psnr"].item())
        right += int(model.tasks["identity"].predict(output).argmax()) == int(sample["identity"])
    row = next(
        row
        for row in json.loads((run / "summary.json").read_text())["test"]["rows"]
        if row["codec"] == "joint"
    )
    assert sum(bits) / len(bits) == pytest.approx(row["bpp"], rel=1e-6)
    assert sum(psnrs) / len(psnrs) == pytest.approx(row["psnr"], rel=1e-5)
    assert right / len(bits) == pytest.approx(row["tasks"]["identity/top1"], abs=1e-6)
    assert model.config["results"][0]["bpp"] == row["bpp"]
    assert [r["codec"] for r in model.config["results"]] == ["quickstart", "jpeg"]


def test_checkpoints_with_averaged_weights_give_the_average(run: Path) -> None:
    path = run / JOINT / "best.ckpt"
    content = torch.load(path, weights_only=True)
    loaded = weights(load(path))
    moved = [
        key for key, p in loaded.items() if not torch.equal(p, content["current_model_state"][key].cpu())
    ]
    assert moved, "the average should differ from the weights that train"
    for key, p in loaded.items():
        assert torch.equal(p, content["state_dict"][key]), key


def test_names_and_facts(run: Path) -> None:
    config = load(run).config
    assert config["name"] == "quickstart"
    assert (config["lmbda"], config["seed"]) == (0.0015, 0)
    assert config["labels"]["parsing"]["target"] == "mask"
    assert config["labels"]["parsing"]["names"][:2] == ["background", "skin"]
    assert list(config["training"]["stages"]) == ["pretrain", "heads", "joint"]
    assert config["training"]["checkpoint"] == "03-joint/last"
    early = load(run / "stages" / "01-pretrain" / "checkpoints" / "last.ckpt", tasks=[]).config
    assert list(early["training"]["stages"]) == ["pretrain"]
    assert "_target_" not in str(config["training"])
    json.dumps(config)


def test_loading_leaves_torch_s_generator_alone(run: Path, folder: Path) -> None:
    before = torch.get_rng_state()
    load(run)
    load(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_that_was_stopped_stands_for_its_last_finished_stage(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "stages" / "03-joint" / "stage.json").unlink()
    assert load(copy).source.parts[-3] == "02-heads"
    for stage in ("01-pretrain", "02-heads"):
        (copy / "stages" / stage / "stage.json").unlink()
    with pytest.raises(
        ValueError, match=r"no finished stage yet: let it go on with resume=.*, or give .*last.ckpt"
    ):
        load(copy)


def test_one_task_or_none_can_be_asked_for(run: Path, folder: Path) -> None:
    for source in (run, folder):
        assert set(load(source, tasks=["parsing"]).tasks) == {"parsing"}
        assert load(source, tasks=[]).tasks == {}
        with pytest.raises(
            ValueError, match=r"has no trained tasks \['x'\]; it has \['identity', 'parsing'\]"
        ):
            load(source, tasks=["x"])


def test_only_trained_tasks_are_loaded_where_the_checkpoint_tells(run: Path, tmp_path: Path) -> None:
    path = edited(
        run / JOINT / "last.ckpt", tmp_path / "x.ckpt", lambda content: content.update(ready=["parsing"])
    )
    assert set(load(path).tasks) == {"parsing"}


# -- model folders -------------------------------------------------------------------------------------------------


def test_the_folder_codes_and_predicts_as_the_run(run: Path, folder: Path, picture: Tensor) -> None:
    ours, saved = load(run), from_pretrained(folder)
    assert files(ours, picture) == files(saved, picture)
    for name, expected in predictions(ours, picture).items():
        assert torch.equal(predictions(saved, picture)[name], expected)
    for key, p in weights(ours).items():
        assert torch.equal(weights(saved)[key], p)
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.yaml", "README.md"}


@pytest.mark.slow
def test_the_folder_works_without_the_training_part(run: Path, folder: Path, picture: Tensor) -> None:
    program = f"""
import sys
for name in ("lightning", "pytorch_lightning", "hydra", "omegaconf", "wandb", "lightning_modules", "losses.objective"):
    sys.modules[name] = None  # importing it fails
import torch
from models.pretrained import from_pretrained
model = from_pretrained({str(folder)!r})
x = torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(0))
(bitstream,) = model.codec.compress(x)
data = model.codec.serialise(bitstream)
output = model.codec.decompress([model.codec.parse(data)])
print(data.hex())
print(model.tasks["parsing"].predict(output).argmax(1).flatten().tolist())
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    data, classes = result.stdout.splitlines()
    model = load(run)
    assert bytes.fromhex(data) == files(model, picture)[0]
    assert json.loads(classes) == predictions(model, picture)["parsing"].argmax(1).flatten().tolist()


def test_coding_tables_are_stored_and_taken_as_they_are(
    folder: Path, tmp_path: Path, picture: Tensor
) -> None:
    stored = load_file(folder / "model.safetensors")
    tables = [key for key in stored if key.endswith("_quantized_cdf")]
    assert len(tables) == 2
    assert all(stored[key].numel() for key in tables)
    model = from_pretrained(folder)
    files(model, picture)
    for key, value in model.codec.state_dict().items():
        assert torch.equal(value, stored[f"codec.{key}"]), key


def test_half_precision_keeps_files_exchangeable(
    run: Path, folder: Path, tmp_path: Path, picture: Tensor
) -> None:
    half = from_pretrained(save_pretrained(load(run), tmp_path / "half", dtype="fp16"))
    whole = from_pretrained(folder)
    assert half.codec.model_id() == whole.codec.model_id()
    assert all(p.dtype == torch.float32 for p in half.codec.parameters())
    stored = load_file(tmp_path / "half" / "model.safetensors")
    halved = {key for key, value in stored.items() if value.dtype == torch.float16}
    assert {key.split(".")[1] for key in halved if key.startswith("codec.")} == {"g_a", "g_s", "latent_codec"}
    assert not any("h_s" in key or "entropy_bottleneck" in key for key in halved)
    assert any(key.startswith("tasks.parsing.") for key in halved)
    (data,) = files(whole, picture)
    a = whole.codec.decompress([whole.codec.parse(data)])
    b = half.codec.decompress([half.codec.parse(data)])
    assert torch.equal(a.latents["y_hat"], b.latents["y_hat"])
    torch.testing.assert_close(a.x_hat, b.x_hat, rtol=0, atol=2e-3)
    size = [(path / "model.safetensors").stat().st_size for path in (folder, tmp_path / "half")]
    assert size[1] < size[0]
    with pytest.raises(ValueError, match="dtype='int8' must be 'fp32' or 'fp16'"):
        save_pretrained(whole, tmp_path / "x", dtype="int8")


def test_weights_too_large_for_half_precision_are_refused(folder: Path, tmp_path: Path) -> None:
    model = from_pretrained(folder)
    next(model.codec.g_s.parameters()).data[0] = 1e6
    with pytest.raises(
        ValueError, match=r"dtype=fp16 cannot hold the weights of codec.g_s.*: export in fp32"
    ):
        save_pretrained(model, tmp_path / "x", dtype="fp16")
    assert not list(tmp_path.iterdir())


def test_a_saved_model_can_be_saved_again(folder: Path, tmp_path: Path) -> None:
    again = save_pretrained(
        from_pretrained(folder, tasks=["parsing"]), tmp_path / "again", license="cc-by-4.0"
    )
    model = from_pretrained(again)
    assert set(model.tasks) == {"parsing"}
    assert not any(key.startswith("tasks.identity") for key in load_file(again / "model.safetensors"))
    assert "license: cc-by-4.0" in (again / "README.md").read_text()
    # An earlier export may be replaced.
    save_pretrained(from_pretrained(folder), again)
    assert set(from_pretrained(again).tasks) == {"identity", "parsing"}


def test_the_folder_tells_nothing_of_the_machine(run: Path, folder: Path) -> None:
    for name in ("config.yaml", "README.md"):
        text = (folder / name).read_text()
        assert str(run) not in text
        assert str(ROOT) not in text
        assert "run_dir" not in text


def test_codecs_without_weights_can_be_saved_too(tmp_path: Path) -> None:
    from models.codecs.standard.pillow import JPEG

    node = {"_target_": "models.codecs.standard.pillow.JPEG", "subsampling": "4:4:4"}
    config = {"name": "jpeg", "codec": node, "tasks": {}, "labels": {}}
    folder = save_pretrained(
        Pretrained(JPEG(subsampling="4:4:4").eval(), {}, config, tmp_path), tmp_path / "jpeg"
    )
    assert from_pretrained(folder).codec.subsampling == "4:4:4"
    assert "None were measured" in (folder / "README.md").read_text()


# -- what is wrong -------------------------------------------------------------------------------------------------


def test_wrong_paths_are_told(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"there is no .*nothing: give a run folder, a checkpoint or an exported"
    ):
        load(tmp_path / "nothing")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG" + bytes(100))
    with pytest.raises(
        ValueError, match=r"neither a run folder \(config.yaml, stages/\).*it holds photo.png"
    ):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"photo.png is no checkpoint that can be loaded safely"):
        load(tmp_path / "photo.png")
    with pytest.raises(ValueError, match="is neither a folder nor a hub id"):
        from_pretrained(tmp_path / "nothing")


def test_checkpoints_with_code_in_them_are_refused_unread(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (open, (str(tmp_path / "written"), "w"))

    torch.save({"state_dict": {}, "config": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match=r"loaded safely .*: it is damaged, of another kind, or holds code"):
        load(tmp_path / "evil.ckpt")
    assert not (tmp_path / "written").exists()


def test_checkpoints_that_do_not_fit_are_told_in_one_line(run: Path, tmp_path: Path) -> None:
    source, target = run / JOINT / "last.ckpt", tmp_path / "x.ckpt"
    head = "tasks.parsing.head.classifier.bias"
    changes = {
        r"is a checkpoint of another project or version: it has no `config`": lambda c: c.pop("config"),
        r"it has no `state_dict`": lambda c: c.pop("state_dict"),
        r"earlier version and lacks its tasks' `labels`": lambda c: c.pop("labels"),
        r"weights of codec do not fit the config: g_a.0.bias missing": lambda c: c["state_dict"].pop(
            "codec.g_a.0.bias"
        ),
        r"codec do not fit the config: g_x unknown here": lambda c: c["state_dict"].update(
            {"codec.g_x": torch.zeros(1)}
        ),
        r"tasks.parsing do not fit the config: head.classifier.bias \(3,\) for \(17,\) of another shape": (
            lambda c: c["state_dict"].update({head: torch.zeros(3)})
        ),
        r"codec: models.codecs.hyperprior.MeanScaleHyperprior: got an unexpected keyword argument 'x'": (
            lambda c: c["config"]["codec"].update(x=1)
        ),
        r"codec: _target_='os.system' is not allowed": lambda c: c["config"].update(
            codec={"_target_": "os.system"}
        ),
        r"tasks.parsing.head: _target_='builtins.exec' is not allowed": (
            lambda c: c["config"]["tasks"]["parsing"].update(head={"_target_": "builtins.exec"})
        ),
        r"tasks.parsing: task reads 'v', which this codec does not have": (
            lambda c: c["config"]["tasks"]["parsing"].update(reads="v")
        ),
        r"labels.parsing must have `target`": lambda c: c["labels"].pop("mask"),
        r"codec: is Linear|codec: is Classification|not a codec|missing a required argument": (
            lambda c: c["config"]["codec"].update({"_target_": "tasks.classification.Classification"})
        ),
    }
    for message, change in changes.items():
        with pytest.raises(ValueError, match=message) as caught:
            load(edited(source, target, change))
        assert str(target) in str(caught.value)
        assert "\n" not in str(caught.value)
    without_labels = edited(source, target, lambda c: c.pop("labels"))
    assert load(without_labels, tasks=[]).tasks == {}


def test_damaged_checkpoints_are_told(run: Path, tmp_path: Path) -> None:
    data = (run / JOINT / "last.ckpt").read_bytes()
    for length in (0, 10, 1000, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.ckpt").write_bytes(data[:length])
        with pytest.raises(ValueError, match="no checkpoint that can be loaded safely"):
            load(tmp_path / "cut.ckpt")
    with zipfile.ZipFile(tmp_path / "other.ckpt", "w") as archive:
        archive.writestr("hello", "world")
    with pytest.raises(ValueError, match="no checkpoint that can be loaded safely"):
        load(tmp_path / "other.ckpt")


def test_git_lfs_pointers_are_told_from_damage(broken: Path, tmp_path: Path) -> None:
    """A clone without git-LFS has such texts where weights should be."""
    pointers = tmp_path / "last.ckpt", tmp_path / "net.pth", broken / "model.safetensors"
    for file in pointers:
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00ff\nsize 8123\n")
    checkpoint, backbone, exported = pointers
    for file, open_it in (
        (checkpoint, lambda: load(checkpoint)),
        (checkpoint, lambda: load_compressai(nn.Linear(1, 1), checkpoint)),
        (backbone, lambda: create_backbone("test_resnet", weights=backbone)),
        (exported, lambda: load(broken)),
        (exported, lambda: from_pretrained(broken)),
    ):
        with pytest.raises(
            ValueError, match=f"{re.escape(str(file))} is a git-LFS pointer, .*`git lfs pull`"
        ):
            open_it()


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "model")
    return tmp_path / "model"


def test_model_folders_that_do_not_fit_are_told_in_one_line(folder: Path, broken: Path) -> None:
    good = yaml.safe_load((folder / "config.yaml").read_text())

    def without(key: str) -> dict[str, Any]:
        return {k: v for k, v in good.items() if k != key}

    configs = {
        r"lacks `format: bifocal-model`": without("format"),
        r"has format_version 7, this code reads 1: use the version .*git commit": {
            **good,
            "format_version": 7,
        },
        r"its config says 00000000: the files do not belong": {**good, "model_id": "00000000"},
        r"_target_='os.system' is not allowed": {**good, "codec": {"_target_": "os.system"}},
        r"codec: is dict, not a codec": {**good, "codec": {"width": 3}},
        r"codec: is NoneType, not a codec": without("codec"),
        r"labels.identity must have": without("labels"),
        r"of another shape": {**good, "codec": {**good["codec"], "width": 5}},
    }
    for message, config in configs.items():
        (broken / "config.yaml").write_text(yaml.safe_dump(config))
        with pytest.raises(ValueError, match=message) as caught:
            from_pretrained(broken)
        assert "\n" not in str(caught.value)
    for text, message in {
        "- 1": "lacks `format",
        "a: [": "is no plain yaml",
        "a: &x [1]\nb: *x": r"aliases \(\*name\) are not allowed",
        "a: !!python/object/apply:os.system [true]": "is no plain yaml",
        "[" * 5000: "is no plain yaml",
    }.items():
        (broken / "config.yaml").write_text(text)
        with pytest.raises(ValueError, match=message):
            load(broken)


def test_files_that_a_model_names_are_not_opened(folder: Path, broken: Path) -> None:
    """Weights come from the folder alone, whatever its config says of where they began."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    head = config["tasks"]["identity"]["head"]
    head |= {
        "pretrained": True,
        "weights": "/nowhere.pth",
        "backbone_args": {"checkpoint_path": "/nowhere.pth"},
    }
    (broken / "config.yaml").write_text(yaml.safe_dump(config))
    expected, actual = weights(from_pretrained(folder)), weights(from_pretrained(broken))
    assert all(torch.equal(actual[key], p) for key, p in expected.items())


def test_damaged_weights_are_told(folder: Path, broken: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    for bad in (b"", data[:100], data[:-1], b"PK" + data[2:]):
        (broken / "model.safetensors").write_bytes(bad)
        with pytest.raises(ValueError, match=r"model.safetensors is damaged or no safetensors file"):
            load(broken)
    stored = load_file(folder / "model.safetensors")
    stored["codec.latent_codec.h_s.0.bias"] += 1
    save_file(stored, broken / "model.safetensors")
    with pytest.raises(ValueError, match="the files do not belong together"):
        load(broken)
    (broken / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no model.safetensors"):
        load(broken)


def test_other_folders_are_never_overwritten(folder: Path, tmp_path: Path) -> None:
    model = from_pretrained(folder)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "config.yaml").write_text("mine: true")
    with pytest.raises(
        ValueError, match="holds something that is no earlier export: give an empty or a new one"
    ):
        save_pretrained(model, tmp_path / "photos")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file or a link"):
        save_pretrained(model, tmp_path / "file")
    with pytest.raises(ValueError, match="cannot be written"):
        save_pretrained(model, tmp_path / "file" / "below")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "photos"]
    (tmp_path / "empty").mkdir()
    save_pretrained(model, tmp_path / "empty")
    from_pretrained(tmp_path / "empty")


def test_a_folder_is_written_whole_or_stays_what_it_was(folder: Path, tmp_path: Path) -> None:
    save_pretrained(from_pretrained(folder), tmp_path / "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}

    def fail_half_way(target: Path) -> None:
        with written_whole(target) as temporary:
            (temporary / "config.yaml").write_text("half")
            raise KeyboardInterrupt

    for target in (tmp_path / "model", tmp_path / "new"):
        with pytest.raises(KeyboardInterrupt):
            fail_half_way(target)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    """The system refuses files beyond 100 kB, in a process of its own."""
    program = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from models.pretrained import from_pretrained, save_pretrained
model = from_pretrained({str(folder)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_pretrained(model, {str(tmp_path / "new")!r})
except ValueError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert f"{tmp_path} cannot be written: " in result.stdout, result.stderr
    assert result.stdout.count("\n") == 1
    assert not list(tmp_path.iterdir())


# -- the hub -------------------------------------------------------------------------------------------------------


def test_hub_ids_that_cannot_be_had_are_one_line(tmp_path: Path) -> None:
    message = (
        r"no-one/no-model at revision v1 is no folder here, and the hub gives no such model \(\w+\): check"
    )
    with pytest.raises(ValueError, match=message):
        from_pretrained("no-one/no-model", revision="v1", cache_dir=tmp_path, local_files_only=True)


def test_a_revision_of_a_folder_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"revision='v1' is for models on the hub, and .* is a folder here"):
        from_pretrained(folder, revision="v1")


def test_the_hub_s_cache_is_read_offline(folder: Path, tmp_path: Path, picture: Tensor) -> None:
    """A cache as huggingface_hub lays it out, with two revisions: no network is needed for either."""
    repository, commits = tmp_path / "models--me--model", {"main": "a" * 40, "v1": "b" * 40}
    for reference, commit in commits.items():
        snapshot = repository / "snapshots" / commit
        shutil.copytree(folder, snapshot)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / reference).write_text(commit)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (repository / "snapshots" / commits["v1"] / "config.yaml").write_text(
        yaml.safe_dump({**config, "name": "older"})
    )
    model = from_pretrained("me/model", cache_dir=tmp_path, local_files_only=True)
    assert files(model, picture) == files(from_pretrained(folder), picture)
    older = from_pretrained("me/model", revision="v1", cache_dir=tmp_path, local_files_only=True)
    assert (model.config["name"], older.config["name"]) == ("quickstart", "older")
