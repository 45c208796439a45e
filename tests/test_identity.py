"""Identity: the margin and verification against slow versions, and resamples that hold pictures twice."""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm import create_model
from torch import nn

from datamodules.samples import Label
from evaluation.set_metrics import Resampled, from_json, states_of, to_json
from models.heads.classifier import TimmClassifier
from models.outputs import CodecOutput, LatentSpec
from tasks.identity import Identity, with_margin
from tasks.verification import EqualErrorRate, RankOne, TrueAcceptRate

READABLE = {"pixels": LatentSpec("map", 3, "base", stride=1), "v": LatentSpec("vector", 4, "base")}
PEOPLE = {"identity": Label("class", ("ann", "bob", "cid", "dan"))}


class Straight(nn.Module):
    """A head that gives back what it reads."""

    def __init__(self, specs, num_outputs):
        super().__init__()

    def forward(self, v, *, size):
        return v


def task(**options):
    torch.manual_seed(0)
    defaults = {"reads": "v", "target": "identity", "head": Straight, "embedding_size": 4}
    return Identity(READABLE, PEOPLE, **defaults | options)


def faces(count, people=4, seed=0, spread=1.0):
    """Embeddings (count, 8) of length 1 around a direction a person, and whose they are."""
    generator = torch.Generator().manual_seed(seed)
    whose = torch.randint(people, (count,), generator=generator)
    centres = torch.randn(people, 8, generator=generator)
    return F.normalize(centres[whose] + spread * torch.randn(count, 8, generator=generator)), whose


def slow(embeddings, whose, keys, far):
    """EER, TAR at FAR and rank-1 by loops over pairs of different pictures."""
    vectors, count = embeddings.double().numpy(), len(whose)
    genuine, impostors, hits, probes = [], [], 0, 0
    for i in range(count):
        for j in range(i + 1, count):
            if keys[i] != keys[j]:
                (genuine if whose[i] == whose[j] else impostors).append(float(vectors[i] @ vectors[j]))
        others = [j for j in range(count) if keys[j] != keys[i]]
        if any(whose[j] == whose[i] for j in others):
            probes += 1
            hits += whose[max(others, key=lambda j: vectors[i] @ vectors[j])] == whose[i]
    genuine, impostors = np.array(genuine), np.array(impostors)
    points = [(0.0, 1.0)] + [
        ((impostors >= t).mean(), (genuine < t).mean()) for t in sorted({*genuine, *impostors}, reverse=True)
    ]
    tar = max(1 - refused for passed, refused in points if passed <= far)
    for (p0, r0), (p1, r1) in pairwise(points):
        if p1 >= r1:  # the first crossing of passed and refused, as two lines cross
            t = (r0 - p0) / ((r0 - p0) - (r1 - p1))
            return {"eer": p0 + t * (p1 - p0), "tar": tar, "rank1": int(hits) / probes}
    raise AssertionError


def values(embeddings, whose, keys, far=0.05):
    target = torch.stack((whose, keys), 1)
    found = {}
    for name, metric in (
        ("eer", EqualErrorRate()),
        ("tar", TrueAcceptRate(far=far)),
        ("rank1", RankOne()),
    ):
        for part in torch.arange(len(whose)).split(7):
            metric.update(embeddings[part], target[part])
        found[name] = float(metric.compute())
    return found


@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_measures_against_loops_over_pairs(spread, seed):
    embeddings, whose = faces(40, seed=seed, spread=spread)
    keys = torch.arange(40)
    assert values(embeddings, whose, keys) == pytest.approx(slow(embeddings, whose, keys, 0.05), abs=1e-9)


def test_perfect_and_impossible():
    embeddings = torch.eye(3).repeat_interleave(2, 0)
    whose, keys = torch.tensor([0, 0, 1, 1, 2, 2]), torch.arange(6)
    assert values(embeddings, whose, keys) == {"eer": 0.0, "tar": 1.0, "rank1": 1.0}
    shifted = values(embeddings, whose.roll(1), keys)
    assert shifted["rank1"] == 0
    assert shifted["tar"] == 0
    assert shifted["eer"] > 0.5
    one = values(embeddings, torch.zeros_like(whose), keys)  # nobody else
    assert math.isnan(one["eer"])
    assert math.isnan(one["tar"])
    alone = values(embeddings, torch.arange(6), keys)  # nobody twice
    assert all(math.isnan(value) for value in alone.values())


def test_pictures_without_a_label_do_not_count():
    embeddings, whose = faces(20)
    more, _ = faces(5, seed=9)
    both = torch.cat((embeddings, more)), torch.cat((whose, torch.full((5,), -1))), torch.arange(25)
    assert values(*both) == values(embeddings, whose, torch.arange(20))


def test_equal_cosines_pass_together():
    """A network that says the same of everybody knows nothing, in whatever order it is asked."""
    embeddings = torch.ones(6, 4) / 2
    found = values(embeddings, torch.tensor([0, 0, 0, 1, 1, 1]), torch.arange(6))
    assert found["eer"] == pytest.approx(0.5)
    assert found["tar"] == 0


def test_a_picture_drawn_twice_is_no_pair_and_no_hit_with_itself():
    """In a bootstrap resample as evaluation makes it: stored picture by picture, recomputed by counts."""
    identity = task(embedding_size=8, far=0.05)
    embeddings, whose = faces(24, spread=2.0)
    ids = [f"people/{number}.jpg" for number in range(24)]
    target = identity.target_of({"identity": whose, "id": ids})
    assert len(set(target[:, 1].tolist())) == 24
    metrics = identity.metrics()
    states = [states_of(metrics, embeddings[i : i + 1], target[i : i + 1]) for i in range(24)]
    resampled = Resampled(metrics, [from_json(to_json(state)) for state in states])
    keys = torch.arange(24)
    assert resampled.compute() == pytest.approx(slow(embeddings, whose, keys, 0.05), abs=1e-9)
    for seed in range(3):
        counts = np.bincount(np.random.default_rng(seed).integers(0, 24, 24), minlength=24)
        drawn = torch.from_numpy(np.repeat(np.arange(24), counts))
        expected = slow(embeddings[drawn], whose[drawn], keys[drawn], 0.05)
        assert resampled.compute(counts) == pytest.approx(expected, abs=1e-9)
    # Everybody once, each picture drawn five times: there is still nothing to compare with.
    alone = Resampled(metrics, [states[int((whose == person).nonzero()[0])] for person in range(4)])
    assert math.isnan(alone.compute(np.full(4, 5))["rank1"])


@pytest.mark.parametrize("margin", [0.0, 0.3, 0.5])
def test_criterion_against_angles(margin):
    identity = task(margin=margin, scale=10.0)
    preds, people = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, -1, 0])
    target = torch.stack((people, torch.arange(6)), 1)
    total, count = identity.criterion(preds, target)
    expected = 0.0
    for embedding, person in zip(preds.double(), people.tolist(), strict=True):
        if person == -1:
            continue
        angles = []
        for k, centre in enumerate(identity.people.detach().double()):
            angle = math.acos(float(embedding @ centre / embedding.norm() / centre.norm()))
            own = k == person
            if own and angle + margin > math.pi:
                angles.append(10 * (math.cos(angle) - margin * math.sin(margin)))
            else:
                angles.append(10 * math.cos(angle + (margin if own else 0)))
        expected += math.log(sum(math.exp(a) for a in angles)) - angles[person]
    assert count == 5
    assert float(total.detach()) == pytest.approx(expected, rel=1e-4)


def test_a_margin_never_rises_again_and_has_a_gradient_everywhere():
    cosines = torch.linspace(-1, 1, 2001, requires_grad=True)
    turned = with_margin(cosines, 0.4)
    assert (turned.detach().diff() > 0).all()
    turned.sum().backward()
    assert cosines.grad.isfinite().all()


def test_it_is_judged_on_other_people():
    identity = task()
    assert identity.misfit({"identity": Label("class", ("eve", "fay"))}) is None
    assert "needs the label 'identity'" in identity.misfit({})
    assert identity.misfit({"identity": Label("attributes", ("eve",))}) is not None
    assert math.isclose(float(identity.decide(torch.randn(3, 4), (8, 8)).norm(dim=1)[1]), 1, rel_tol=1e-6)


def test_a_whole_network_as_it_is():
    head = partial(TimmClassifier, backbone="test_byobnet", backbone_args={"num_classes": 0})
    size = create_model("test_byobnet").num_features
    identity, output = (
        task(reads="pixels", head=head, embedding_size=size),
        CodecOutput((32, 32), x_hat=torch.rand(2, 3, 32, 32)),
    )
    batch = {"identity": torch.tensor([0, 1]), "id": ["a", "b"]}
    assert identity(output, batch).preds.shape == (2, size)
    with pytest.raises(ValueError, match=rf"the head gives {size} numbers .* embedding_size=7"):
        task(reads="pixels", head=head, embedding_size=7)(output, batch)


def test_what_does_not_fit_is_refused():
    for options in ({"margin": -0.1}, {"margin": 2.0}, {"scale": 0}, {"far": 0}, {"embedding_size": 0}):
        with pytest.raises(ValueError, match="must be positive, margin="):
            task(**options)
