"""Labels stay where their pixels are, whatever view is taken of an image."""

import pytest
import torch

from datamodules.samples import Label
from datamodules.transforms import CentreView, RandomView, View

HEIGHT, WIDTH = 70, 90
POINTS = torch.tensor([[25.0, 30.0], [60.0, 40.0]])  # left, right
LABELS = {
    "mask": Label("mask", ("ground", "left", "right"), mirror=((1, 2),)),
    "landmarks": Label("landmarks", ("left", "right"), mirror=((0, 1),)),
    "attributes": Label("attributes", ("left up", "smiling", "right up"), mirror=((0, 2),)),
    "class": Label("class", ("looks left", "looks right", "looks ahead"), mirror=((0, 1),)),
    "boxes": Label("boxes", ("left", "right"), mirror=((0, 1),)),
}


def sample():
    """A black image with a red square of 9 pixels around the left point and a green one around the right."""
    image = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.int64)
    boxes = []
    for number, (x, y) in enumerate(POINTS.int().tolist()):
        image[number, y - 4 : y + 5, x - 4 : x + 5] = 255
        mask[y - 4 : y + 5, x - 4 : x + 5] = number + 1
        boxes.append([x - 4, y - 4, x + 5, y + 5])
    return {
        "image": image,
        "mask": mask,
        "landmarks": POINTS.clone(),
        "attributes": torch.tensor([1, 0, 0]),
        "class": torch.tensor(0),
        "boxes": torch.tensor(boxes).float(),
        "box_class": torch.tensor([0, 1]),
    }


def centroid(weights):
    """Mean x, y of a (h, w) plane of weights."""
    weights = weights.double()
    rows, columns = torch.arange(weights.shape[0]), torch.arange(weights.shape[1])
    return torch.stack(((weights.sum(0) * columns).sum(), (weights.sum(1) * rows).sum())) / weights.sum()


def assert_consistent(moved, point, label, colour):
    """The square of a colour, its landmark, its mask and its box (each found by its new label) agree."""
    plane = moved["image"][colour]
    x, y = moved["landmarks"][point].tolist()
    assert centroid(plane).tolist() == pytest.approx([x, y], abs=0.3)
    assert centroid(moved["mask"] == label).tolist() == pytest.approx([x, y], abs=0.6)
    inside = moved["mask"] == label
    assert (plane[inside] > 100).float().mean() > 0.9
    assert (plane[~inside] < 155).float().mean() > 0.97
    (box,) = moved["boxes"][moved["box_class"] == point].tolist()
    assert [(box[0] + box[2]) / 2 - 0.5, (box[1] + box[3]) / 2 - 0.5] == pytest.approx([x, y], abs=0.01)
    lit = (plane > 127).nonzero()
    edges = [lit[:, 1].min(), lit[:, 0].min(), lit[:, 1].max() + 1, lit[:, 0].max() + 1]
    assert [int(edge) for edge in edges] == pytest.approx(box, abs=0.75)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("window", "size"),
    [
        ((0, 0, HEIGHT, WIDTH), (HEIGHT, WIDTH)),  # whole image
        ((20, 15, 40, 60), (40, 60)),  # cut
        ((20, 15, 40, 60), (160, 240)),  # enlarged 4 times: half a pixel wrong shows as 1.5
        ((10, 5, 50, 80), (25, 40)),  # halved
        ((15, 10, 45, 70), (64, 64)),  # another aspect ratio
    ],
)
def test_pixels_masks_points_and_boxes_move_together(window, size, flip):
    moved = View(*window, size, flip)(sample(), LABELS)
    assert moved["image"].shape == (3, *size)
    assert moved["mask"].shape == size
    assert (moved["image"].dtype, moved["mask"].dtype) == (torch.uint8, torch.int64)
    for number in (0, 1):
        # The red square is the left one; in a mirror it becomes the right one, and every label must say so.
        now = 1 - number if flip else number
        assert_consistent(moved, point=now, label=now + 1, colour=number)


def test_flip_exchanges_mirrored_labels():
    before = sample()
    after = View(0, 0, HEIGHT, WIDTH, (HEIGHT, WIDTH), flip=True)(before, LABELS)
    assert torch.equal(after["image"], before["image"].flip(2))
    assert after["landmarks"].tolist() == [[WIDTH - 1 - 60.0, 40.0], [WIDTH - 1 - 25.0, 30.0]]
    assert after["attributes"].tolist() == [0, 0, 1]
    assert after["class"].item() == 1
    assert after["boxes"].tolist()[0] == [WIDTH - 30.0, 26.0, WIDTH - 21.0, 35.0]
    assert after["box_class"].tolist() == [1, 0]
    exchanged = torch.tensor([0, 2, 1])[before["mask"].flip(1)]
    assert torch.equal(after["mask"], exchanged)


def test_flip_without_mirror_leaves_the_indices():
    labels = {key: Label(label.kind, label.names) for key, label in LABELS.items()}
    before = sample()
    after = View(0, 0, HEIGHT, WIDTH, (HEIGHT, WIDTH), flip=True)(before, labels)
    assert torch.equal(after["mask"], before["mask"].flip(1))
    assert after["landmarks"].tolist() == [[WIDTH - 1 - 25.0, 30.0], [WIDTH - 1 - 60.0, 40.0]]
    assert after["attributes"].tolist() == [1, 0, 0]
    assert after["class"].item() == 0
    assert after["box_class"].tolist() == [0, 1]


def test_two_flips_are_none():
    before = sample()
    flip = View(0, 0, HEIGHT, WIDTH, (HEIGHT, WIDTH), flip=True)
    after = flip(flip(before, LABELS), LABELS)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("flip", [False, True])
def test_missing_labels_stay_missing(flip):
    missing = sample() | {
        "mask": torch.full((HEIGHT, WIDTH), 255),
        "landmarks": torch.full((2, 2), torch.nan),
        "attributes": torch.full((3,), -1),
        "class": torch.tensor(-1),
        "boxes": torch.full((1, 4), torch.nan),
        "box_class": torch.tensor([-1]),
    }
    moved = View(10, 20, 30, 30, (45, 45), flip)(missing, LABELS)
    assert (moved["mask"] == 255).all()
    assert moved["landmarks"].isnan().all()
    assert moved["attributes"].tolist() == [-1, -1, -1]
    assert moved["class"].item() == -1
    assert moved["boxes"].shape == (1, 4)
    assert moved["boxes"].isnan().all()
    assert moved["box_class"].tolist() == [-1]


def test_landmarks_outside_the_view_keep_their_coordinates():
    moved = View(35, 40, 20, 20, (40, 40))(sample(), LABELS)
    assert moved["landmarks"].tolist() == [[-29.5, -9.5], [40.5, 10.5]]


def test_boxes_outside_the_view_are_removed_and_others_cut():
    before = sample()
    before["boxes"] = torch.tensor(
        [[0, 0, 10, 10], [15, 15, 25, 25], [24, 24, 34, 34], [38, 20, 48, 40], [20, 20, 40, 40]]
    ).float()
    before["box_class"] = torch.tensor([0, 1, 0, 1, 1])
    moved = View(20, 20, 20, 20, (20, 20))(before, LABELS)
    # Their visible shares are 0, 1/4, 1, 1/5 and 1: the first and the fourth are removed, the second is cut.
    assert moved["boxes"].tolist() == [[0, 0, 5, 5], [4, 4, 14, 14], [0, 0, 20, 20]]
    assert moved["box_class"].tolist() == [1, 0, 1]
    nothing = View(50, 50, 10, 10, (10, 10))(before, LABELS)
    assert nothing["boxes"].shape == (0, 4)
    assert nothing["box_class"].shape == (0,)


@pytest.mark.parametrize("options", [{}, {"scale": (0.2, 1.0)}, {"scale": (0.5, 0.5), "colour_jitter": 0.5}])
def test_random_views_invent_no_classes_and_have_one_size(options):
    view = RandomView(crop=48, **options)
    before = sample()
    before["mask"] = before["mask"] + 3
    labels = {"mask": Label("mask", tuple("abcdef"))}
    for seed in range(20):
        torch.manual_seed(seed)
        moved = view(before, labels)
        assert moved["image"].shape == (3, 48, 48)
        assert set(moved["mask"].unique().tolist()) <= {3, 4, 5}


def test_random_windows_reach_all_of_the_image():
    torch.manual_seed(0)
    windows = [RandomView(crop=64)._window(HEIGHT, WIDTH) for _ in range(400)]
    assert {window.top for window in windows} == set(range(HEIGHT - 64 + 1))
    assert {window.left for window in windows} == set(range(WIDTH - 64 + 1))
    assert 140 < sum(window.flip for window in windows) < 260


@pytest.mark.parametrize(("flip", "expected"), [(0.0, {False}), (1.0, {True})])
def test_flip_probability_at_its_ends(flip, expected):
    assert {RandomView(crop=32, flip=flip)._window(HEIGHT, WIDTH).flip for _ in range(50)} == expected


def test_small_images_are_enlarged_until_the_shorter_side_fits():
    window = RandomView(crop=128)._window(HEIGHT, WIDTH)
    assert (window.height, window.width, window.size) == (HEIGHT, HEIGHT, (128, 128))


def test_scale_bounds_area_and_aspect_ratio():
    torch.manual_seed(0)
    view = RandomView(crop=32, scale=(0.2, 0.4))
    for _ in range(200):
        window = view._window(400, 500)
        assert 0.19 < window.height * window.width / (400 * 500) <= 0.4
        assert 0.74 < window.width / window.height < 1.35
        assert window.top + window.height <= 400
        assert window.left + window.width <= 500
    panorama = RandomView(crop=32, scale=(1, 1))._window(100, 2000)
    assert panorama.height <= 100
    assert 0.74 < panorama.width / panorama.height < 1.35


def test_colour_jitter_changes_colours_alone():
    torch.manual_seed(0)
    before = sample() | {"image": torch.randint(0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8)}
    after = RandomView(flip=0, colour_jitter=0.5)(before, LABELS)
    plain = RandomView(flip=0)(before, LABELS)
    assert torch.equal(plain["image"], before["image"])
    assert after["image"].dtype == torch.uint8
    assert not torch.equal(after["image"], before["image"])
    assert all(torch.equal(after[key], before[key]) for key in before if key != "image")


def test_centre_view():
    before = sample()
    assert CentreView()(before, LABELS) is before
    ramp = before | {"image": torch.arange(WIDTH, dtype=torch.uint8).expand(3, HEIGHT, WIDTH)}
    moved = CentreView(size=HEIGHT)(ramp, LABELS)
    assert moved["image"].shape == (3, HEIGHT, HEIGHT)
    assert (moved["image"][0, 0, 0].item(), moved["image"][0, 0, -1].item()) == (10, 79)
    assert moved["landmarks"].tolist() == (POINTS - torch.tensor([10.0, 0.0])).tolist()
    assert CentreView(size=33)(ramp, LABELS)["mask"].shape == (33, 33)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 0}, "crop is 0, must be at least 1 pixel"),
        ({"flip": 1.5}, "flip is 1.5, a probability"),
        ({"colour_jitter": -0.1}, "colour_jitter is -0.1, must be within 0..1"),
        ({"scale": (0.5, 1)}, "crop is not set"),
        ({"crop": 8, "scale": (0.5, 0.2)}, r"scale is \(0.5, 0.2\), must be \(low, high\)"),
        ({"crop": 8, "scale": (0, 1)}, r"0 < low <= high <= 1"),
        ({"crop": 8, "scale": (0.1, 0.2, 0.3)}, r"must be \(low, high\)"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ValueError, match=message):
        RandomView(**options)


def test_impossible_eval_size():
    with pytest.raises(ValueError, match="eval_size is 0, must be at least 1 pixel"):
        CentreView(size=0)
