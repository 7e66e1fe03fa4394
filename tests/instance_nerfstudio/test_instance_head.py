"""The instance head: linearity, ids, chunks, and checkpoints of other instances."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from instance_nerfstudio import instance_classifier as instance_classifier_module
from instance_nerfstudio.instance_head import InstanceHead, InstanceHeadConfig

GEOMETRY = 3
SPARSE_IDS = (0, 1, 256, 300, 32768, 65534)


def make_head(ids: Sequence[int] = SPARSE_IDS, random_classifier: bool = True, hidden_dim: int = 8) -> InstanceHead:
    config = InstanceHeadConfig(num_levels=2, base_res=4, max_res=8, log2_hashmap_size=10, hidden_dim=hidden_dim)
    head: InstanceHead = config.setup(geometry_dim=GEOMETRY, instance_ids=torch.tensor(ids))
    if random_classifier:
        nn.init.normal_(head.classifier.weight)
    return head


def points(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.rand(*shape, 3), torch.randn(*shape, GEOMETRY)


def test_compositing_commutes_with_classifying():
    head = make_head()
    hidden = head(*points(7, 5))
    weights = torch.rand(7, 5, 1)
    per_sample = head.classify(hidden.flatten(0, 1)).view(7, 5, -1)
    assert per_sample.abs().max() > 0.1
    torch.testing.assert_close(head.classify((weights * hidden).sum(-2)), (weights * per_sample).sum(-2))


def test_forward_keeps_the_leading_shape():
    head = make_head()
    positions, geometry = points(4, 6)
    hidden = head(positions, geometry)
    assert hidden.shape == (4, 6, 8)
    torch.testing.assert_close(hidden[2], head(positions[2], geometry[2]))


def test_features_depend_on_position_and_geometry():
    head = make_head()
    nn.init.uniform_(head.encoding.hash_table, -1, 1)
    positions, geometry = points(50)
    hidden = head(positions, geometry)
    assert not torch.allclose(hidden, head(positions.roll(1, 0), geometry))
    assert not torch.allclose(hidden, head(positions, geometry.roll(1, 0)))


def test_untrained_head_answers_background():
    head = make_head(random_classifier=False)
    ids, confidence = head.predict(torch.randn(20, 8))
    assert (ids == 0).all()
    torch.testing.assert_close(confidence, torch.full((20, 1), 1 / len(SPARSE_IDS)))


def test_ray_without_a_hit_is_background():
    assert (make_head().predict(torch.zeros(3, 8))[0] == 0).all()


def test_predict_answers_with_the_ids_of_the_masks():
    head = make_head(hidden_dim=len(SPARSE_IDS))
    head.classifier.weight.data = torch.eye(len(SPARSE_IDS))
    order = torch.tensor([3, 0, 5, 4, 1, 2])
    ids, confidence = head.predict(4 * torch.eye(len(SPARSE_IDS))[order])
    assert ids.dtype == torch.int32
    assert ids.shape == confidence.shape == (6, 1)
    assert ids[:, 0].tolist() == [SPARSE_IDS[i] for i in order.tolist()]


def test_temperature_softens_confidence_and_keeps_the_ids():
    head = make_head()
    features = 3 * torch.randn(40, 8)
    ids, sharp = head.predict(features)
    torch.testing.assert_close(sharp, head.classify(features).softmax(-1).amax(-1, keepdim=True))
    head.temperature.fill_(4.0)
    cool, soft = head.predict(features)
    torch.testing.assert_close(soft, (head.classify(features) / 4).softmax(-1).amax(-1, keepdim=True))
    assert torch.equal(ids, cool)
    assert (soft < sharp).all()


def test_chunks_of_predict_change_nothing(monkeypatch):
    head = make_head()
    features = torch.randn(11, 8)
    whole = head.predict(features)
    calls = []
    classify = head.classify
    monkeypatch.setattr(head, "classify", lambda rows: calls.append(len(rows)) or classify(rows))
    monkeypatch.setattr(instance_classifier_module, "_MAX_LOGITS", 2 * len(SPARSE_IDS) + 1)
    parts = head.predict(features)
    assert calls == [2, 2, 2, 2, 2, 1]
    assert torch.equal(parts[0], whole[0])
    torch.testing.assert_close(parts[1], whole[1])


def test_more_instances_than_logits_at_once(monkeypatch):
    monkeypatch.setattr(instance_classifier_module, "_MAX_LOGITS", 1)
    assert make_head().predict(torch.randn(3, 8))[0].shape == (3, 1)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_targets(dtype):
    labels = torch.tensor([[0, 1, 65534], [-1, 2, 65535], [32768, 300, 299]], dtype=dtype)
    assert make_head().targets(labels).tolist() == [[0, 1, 5], [-1, -1, -1], [4, 3, -1]]
    assert make_head(ids=(0,)).targets(labels).tolist() == [[0, -1, -1], [-1, -1, -1], [-1, -1, -1]]


@pytest.mark.parametrize("own", [(0,), (0, 5), (0, 2, 7, 9), (0, 1, 2, 3, 4, 5, 6, 7)])
def test_checkpoint_of_other_instances_decides(own):
    torch.manual_seed(0)
    theirs, ours = make_head(ids=(0, 3, 300, 40000)), make_head(ids=own)
    parent = nn.ModuleDict({"instance_head": ours})
    parameter = ours.classifier.weight
    optimizer = torch.optim.SGD(parent.parameters(), lr=1.0)
    parent.load_state_dict(nn.ModuleDict({"instance_head": theirs}).state_dict(), strict=True)

    assert ours.classifier.weight is parameter
    assert ours.classifier.out_features == 4
    assert ours.instance_ids.tolist() == [0, 3, 300, 40000]
    features = torch.randn(30, 8)
    assert torch.equal(ours.predict(features)[0], theirs.predict(features)[0])
    assert ours.targets(torch.tensor([300, 5])).tolist() == [2, -1]
    # The optimiser still moves it.
    ours.classify(features)[:, 3].sum().backward()
    optimizer.step()
    assert not torch.equal(ours.classifier.weight, theirs.classifier.weight)


def test_temperature_travels_with_the_checkpoint():
    theirs, ours = make_head(ids=(0, 1)), make_head()
    theirs.temperature.fill_(2.5)
    ours.load_state_dict(theirs.state_dict())
    assert ours.temperature == 2.5


def test_gradients_reach_every_part():
    """Zero weights hold back the hidden layers for one step only."""
    head = make_head(random_classifier=False)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    positions, geometry = points(64)
    targets = head.targets(torch.tensor(SPARSE_IDS).repeat(11)[:64])
    before = {name: value.detach().clone() for name, value in head.named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head.classify(head(positions, geometry)), targets.long()).backward()
        optimizer.step()
    unchanged = [name for name, value in head.named_parameters() if torch.equal(value, before[name])]
    assert not unchanged


def test_head_learns_what_a_position_holds():
    torch.manual_seed(0)
    head = make_head(ids=(0, 7), random_classifier=False)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    positions, geometry = points(256)
    labels = torch.where(positions[:, 0] > 0.5, 7, 0)
    for _ in range(60):
        optimizer.zero_grad()
        logits = head.classify(head(positions, torch.zeros_like(geometry)))
        nn.functional.cross_entropy(logits, head.targets(labels).long()).backward()
        optimizer.step()
    ids, _ = head.predict(head(positions, torch.zeros_like(geometry)))
    assert (ids[:, 0] == labels).float().mean() > 0.95
