"""The networks: shapes, heads, local weights, and clear refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from common.errors import UserError
from stage2_classifier.config import TrainConfig
from stage2_classifier.models import OWN_MODELS, SmallCNN, build_model, check_input_size, input_stats, split_parameters
from stage2_classifier.training.engine import set_training_mode
from stage2_classifier.training.optimizer import LRSchedule, build_optimizer, parameter_groups

TIMM_NAME = "test_resnet"  # timm's own miniature


@pytest.mark.parametrize("name", [*OWN_MODELS, TIMM_NAME])
@pytest.mark.parametrize("size", [32, 45, 64])
def test_logits_have_one_column_per_class(name: str, size: int) -> None:
    logits = build_model(name, 3).eval()(torch.zeros(2, 3, size, size))
    assert logits.shape == (2, 3) and torch.isfinite(logits).all()


def test_small_cnn_keeps_to_what_runs_fast() -> None:
    model = SmallCNN(3)
    channels = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert all(c % 16 == 0 for c in channels)
    assert 500_000 <= sum(p.numel() for p in model.parameters()) <= 1_000_000


@pytest.mark.parametrize("name", ["small_cnn", TIMM_NAME])
def test_every_parameter_gets_a_gradient_and_is_in_one_part(name: str) -> None:
    model = build_model(name, 3)
    # Two steps: a block that starts as its shortcut gives its convolutions no gradient at first.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 64, 64)).logsumexp(1).sum().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    backbone, head = split_parameters(model)
    assert len(backbone) + len(head) == len(list(model.parameters()))
    assert sorted(p.shape[0] for p in head) == [3, 3]


def stock_onet() -> nn.Module:
    """Return facenet-pytorch's O-Net with one slope per layer, as a FaceTrunk has it."""
    from facenet_pytorch.models.mtcnn import ONet

    stock = ONet().eval()
    for prelu in (m for m in stock.modules() if isinstance(m, nn.PReLU)):
        nn.init.constant_(prelu.weight, prelu.weight.detach().mean().item())
    return stock


def test_a_pretrained_face_trunk_predicts_as_the_stock_net() -> None:
    stock = stock_onet()
    trunk = build_model("face_trunk", 2, pretrained=True).eval()
    trunk.head.load_state_dict(stock.dense6_1.state_dict())
    pixels = torch.rand(4, 3, 48, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(trunk(pixels).softmax(dim=1), stock(pixels)[2])
    assert input_stats(trunk) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # pixels of -1..1, as in O-Net's training


def test_a_face_trunk_from_scratch_keeps_only_the_slopes() -> None:
    torch.manual_seed(0)
    trunk, pretrained = build_model("face_trunk", 3), build_model("face_trunk", 3, pretrained=True)
    for own, known in zip(trunk.parameters(), pretrained.parameters(), strict=True):
        assert not torch.equal(own, known)
    slopes = [
        [m.negative_slope for m in model.modules() if isinstance(m, nn.LeakyReLU)] for model in (trunk, pretrained)
    ]
    assert slopes[0] == slopes[1] and len(slopes[0]) == 5
    assert {id(p) for p in split_parameters(trunk)[1]} == {id(p) for p in trunk.head.parameters()}


def test_a_face_trunk_takes_48_pixels_only() -> None:
    check_input_size(build_model("face_trunk", 3), 48)
    with pytest.raises(UserError, match=r"input_size: .* 64 pixels; try 48"):
        check_input_size(build_model("face_trunk", 3), 64)


def test_input_stats_are_timms_own_or_a_half() -> None:
    assert input_stats(build_model("small_cnn", 3)) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert input_stats(build_model("resnet10t", 3))[0] == pytest.approx((0.485, 0.456, 0.406))


@pytest.mark.parametrize(
    ("name", "meant"), [("smal_cnn", "small_cnn"), ("face_trnk", "face_trunk"), ("resnet_18", "resnet18")]
)
def test_an_unknown_model_gives_close_names(name: str, meant: str) -> None:
    with pytest.raises(UserError, match=meant):
        build_model(name, 3)


def test_pretrained_without_the_hub_says_how_to_give_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_args: Any, **kwargs: Any) -> nn.Module:
        assert kwargs["pretrained"]
        raise OSError("no route to host")

    monkeypatch.setattr("timm.create_model", unreachable)
    with pytest.raises(UserError, match=r"no route to host.*--weights FILE"):
        build_model("resnet18", 3, pretrained=True)
    with pytest.raises(UserError, match="--weights FILE"):
        build_model("small_cnn", 3, pretrained=True)


def test_an_input_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"input_size: .* 64 pixels; try 224"):
        check_input_size(build_model("deit_tiny_patch16_224", 3), 64)
    check_input_size(build_model("small_cnn", 3), 32)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_local_weights_load_and_a_head_of_other_classes_is_dropped(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = build_model("small_cnn", 5)
    file = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        # As DistributedDataParallel and most training scripts leave it.
        torch.save({"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}}, file)
    else:
        save_file(source.state_dict(), file)
    same = build_model("small_cnn", 5, weights=str(file))
    assert all(torch.equal(a, b) for a, b in zip(same.state_dict().values(), source.state_dict().values(), strict=True))
    assert capsys.readouterr().out == ""
    other = build_model("small_cnn", 3, weights=str(file))
    assert torch.equal(other.get_parameter("stem.0.weight"), source.get_parameter("stem.0.weight"))
    assert other.get_parameter("head.weight").shape[0] == 3
    assert "a fresh one is trained" in capsys.readouterr().out


OWN = build_model("small_cnn", 3).state_dict()
HALF = build_model("small_cnn_half", 3).state_dict()
UNREADABLE = "not readable as weights; it may be cut short, download it again"


@pytest.mark.parametrize(
    ("name", "make", "line"),
    [
        ("w.pth", lambda file: None, "no such file of weights; check the name"),
        (
            "w.pth",
            lambda file: torch.save([1, 2], file),
            "holds no dictionary of tensors; save model.state_dict() instead",
        ),
        (
            "w.pth",
            lambda file: torch.save({0: torch.zeros(1)}, file),
            "holds no dictionary of tensors; save model.state_dict() instead",
        ),
        ("w.pth", lambda file: torch.save(nn.Linear(2, 2), file), UNREADABLE),  # a pickled object could run code
        ("w.pth", lambda file: save_file(OWN, file), UNREADABLE),
        ("w.safetensors", lambda file: torch.save(OWN, file), UNREADABLE),
        ("w.safetensors", lambda file: file.write_bytes(save(OWN)[:1000]), UNREADABLE),
        (
            "w.pth",
            lambda file: torch.save(HALF, file),
            "weights of another model (50 tensors differ, such as blocks.0.first.0.weight, blocks.0.first.1.bias, "
            "blocks.0.first.1.running_mean); use this model's weights",
        ),
        (
            "w.safetensors",
            lambda file: save_file({**OWN, "stem.1.bias": OWN["stem.1.bias"] * torch.nan}, file),
            "its weights are not finite numbers (stem.1.bias); train or download it again",
        ),
    ],
)
def test_wrong_weights_are_refused(tmp_path: Path, name: str, make: Callable[[Path], object], line: str) -> None:
    make(tmp_path / name)
    with pytest.raises(UserError) as raised:
        build_model("small_cnn", 3, weights=str(tmp_path / name))
    assert str(raised.value) == f"{tmp_path}/{name}: {line}"


def test_parameter_groups_scale_the_backbone_and_spare_biases_and_norms() -> None:
    model = build_model("small_cnn", 3)
    groups = parameter_groups(model, TrainConfig(lr=0.1, backbone_lr_scale=0.5, weight_decay=0.01))
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [(0.1, 0.01), (0.1, 0.0), (0.05, 0.01), (0.05, 0.0)]
    assert all((p.ndim > 1) == (g["weight_decay"] > 0) for g in groups for p in g["params"])
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


def test_an_unknown_optimizer_gives_close_names() -> None:
    with pytest.raises(UserError, match=r"optimizer: .*'adamww'.*adamw"):
        build_optimizer(build_model("small_cnn", 3), TrainConfig(optimizer="adamww"))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lamb", "lookahead_adamw"])
def test_optimizers_by_name(optimizer: str) -> None:
    assert build_optimizer(build_model("small_cnn_half", 3), TrainConfig(optimizer=optimizer)).param_groups


def rates(scheduler: str, epochs: int = 6, warmup: int = 0) -> list[float]:
    """Return the head's learning rate at 10 updates per epoch, with scores that never get better."""
    config = TrainConfig(
        scheduler=scheduler, epochs=epochs, warmup_epochs=warmup, lr=1.0, patience=6, backbone_lr_scale=0.1
    )
    optimizer = build_optimizer(build_model("small_cnn_half", 3), config)
    schedule = LRSchedule(optimizer, config, updates_per_epoch=10)
    seen = []
    for update in range(10 * epochs):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.after_update(update + 1)
        if update % 10 == 9:
            schedule.after_epoch(0.5)
    return seen


def test_schedules_have_their_shapes() -> None:
    assert rates("constant") == [1.0] * 60
    cosine = rates("cosine", warmup=2)
    assert cosine[:20] == sorted(cosine[:20]) and cosine[20:] == sorted(cosine[20:], reverse=True)
    assert cosine[0] < 0.01 and cosine[-1] < 0.01 and max(cosine) > 0.7
    step = rates("step")
    assert [step[0], step[20], step[40]] == pytest.approx([1, 0.1, 0.01])
    assert rates("poly")[30] == pytest.approx(0.5)
    plateau = rates("plateau")  # the first score is the best; after two more the fourth lowers the rate
    assert [plateau[39], plateau[40]] == pytest.approx([1, 0.1])
    cycle = rates("onecycle")
    assert (
        max(cycle) == pytest.approx(1, abs=0.01) and 10 < cycle.index(max(cycle)) < 25 and cycle[-1] < 0.01 < cycle[0]
    )


def test_a_frozen_backbone_takes_no_gradient_and_keeps_its_statistics() -> None:
    model = build_model("small_cnn", 3)
    set_training_mode(model, freeze_backbone=True)
    before = {k: v.clone() for k, v in model.named_buffers()}
    model(torch.randn(4, 3, 32, 32)).sum().backward()
    assert all(torch.equal(before[k], v) for k, v in model.named_buffers())
    backbone, head = split_parameters(model)
    assert all(p.grad is None for p in backbone) and all(p.grad is not None for p in head)
    set_training_mode(model, freeze_backbone=False)
    model(torch.randn(4, 3, 32, 32)).sum().backward()
    assert any(p.grad is not None for p in backbone)
    assert any(not torch.equal(before[k], v) for k, v in model.named_buffers())


def test_a_new_head_on_trained_timm_weights_starts_near_zero(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    trained = build_model(TIMM_NAME, 5)
    save_file(trained.state_dict(), file)
    images = torch.randn(4, 3, 64, 64)
    fresh = build_model(TIMM_NAME, 8, weights=str(file))
    assert fresh.eval()(images).abs().max() < 0.5 and all((p == 0).all() for p in fresh.get_classifier().bias)
    # A head that fits is kept, and without trained weights the model starts as timm starts it.
    kept = build_model(TIMM_NAME, 5, weights=str(file)).get_classifier().weight
    assert torch.equal(kept, trained.get_classifier().weight)
    assert build_model(TIMM_NAME, 8).get_classifier().weight.std() > 0.02
