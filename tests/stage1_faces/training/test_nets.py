"""The fine-tuned cascade's nets: shapes, the stock weights in O-Net, and graphs that agree with torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from facenet_pytorch.models.mtcnn import ONet
from torch import nn

from stage1_faces.detector import O_SIZE, R_SIZE, STRIDE
from stage1_faces.faces import Net
from stage1_faces.pyramid import PNET_MULTIPLE
from stage1_faces.roi_crop import GREY
from stage1_faces.training.export import FINE_TUNED, STOCK, TOLERANCE, max_difference
from stage1_faces.training.nets import ExportWrapper, OutputNet, build_net, normalize_pixels


def pixels(n: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 255


def shapes(net: nn.Module, size: tuple[int, ...]) -> list[tuple[int, ...]]:
    with torch.no_grad():
        return [tuple(output.shape) for output in net(torch.zeros(size))]


def test_shapes_are_those_that_the_detector_lists() -> None:
    pnet, rnet, onet = (ExportWrapper(build_net(name)).eval() for name in ("pnet", "rnet", "onet"))
    assert shapes(pnet, (2, 3, 40, 56)) == [(2, 40 // STRIDE, 56 // STRIDE), (2, 4, 40 // STRIDE, 56 // STRIDE)]
    assert shapes(rnet, (3, 3, R_SIZE, R_SIZE)) == [(3,), (3, 4)]
    assert shapes(onet, (3, 3, O_SIZE, O_SIZE)) == [(3,), (3, 4), (3, 5, 2)]


def test_an_untrained_pnet_gives_low_face_probabilities() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        probability, outputs = ExportWrapper(build_net("pnet")).eval()(pixels(2, 64, 64))
    assert probability.min() > 0 and probability.max() < 0.03
    assert outputs.abs().max() < 0.1


def test_grey_is_zero() -> None:
    assert normalize_pixels(torch.tensor([float(GREY), 0.0, 255.0])).tolist() == [0, -GREY / 128, (255 - GREY) / 128]


def with_mean_slopes() -> ONet:
    """Return facenet-pytorch's O-Net with the mean slope in each PReLU."""
    stock = ONet().eval()
    with torch.no_grad():
        for k in range(1, 6):
            weight = getattr(stock, f"prelu{k}").weight
            weight.fill_(weight.mean())
    return stock


def test_onet_starts_with_the_stock_weights_and_face_logit() -> None:
    net, stock = OutputNet().eval(), with_mean_slopes()
    assert torch.equal(net.features[0].weight, ONet().conv1.weight)
    assert torch.equal(net.dense[0].weight, ONet().dense5.weight)
    inputs = normalize_pixels(pixels(16, 48, 48)) * torch.linspace(0.2, 1.2, 16)[:, None, None, None]
    with torch.no_grad():
        _, _, probability = stock(inputs)
        logit = net(inputs)[:, 0]
    assert torch.sigmoid(logit).numpy() == pytest.approx(probability[:, 1].numpy(), abs=1e-5)
    assert logit.numpy() == pytest.approx((probability[:, 1] / probability[:, 0]).log().numpy(), abs=1e-3)
    assert np.ptp(logit.numpy()) > 0.5  # the pictures do differ


def test_export_wrapper_gives_the_nets_outputs() -> None:
    net = build_net("onet").eval()
    inputs = pixels(2, 48, 48)
    with torch.no_grad():
        outputs = net(normalize_pixels(inputs))
        probability, box, points = ExportWrapper(net)(inputs)
    assert torch.equal(probability, torch.sigmoid(outputs[:, 0]))
    assert torch.equal(box, outputs[:, 1:5])
    # x and y alternate, as in `WindowBatches.loss`.
    assert points[1, 3].tolist() == outputs[1, [11, 12]].tolist()


@pytest.mark.parametrize("name", ["pnet", "rnet", "onet"])
def test_graphs_agree_with_torch(name: str, untrained_nets: dict[str, Net], torch_nets: dict[str, nn.Module]) -> None:
    sizes = {"rnet": [(R_SIZE, R_SIZE)], "onet": [(O_SIZE, O_SIZE)]}.get(
        name, [(PNET_MULTIPLE, PNET_MULTIPLE), (PNET_MULTIPLE, 3 * PNET_MULTIPLE), (64, 40), (136, 200), (8, 256)]
    )
    for n, size in ((n, size) for n in (1, 3) for size in sizes):
        inputs = pixels(n, *size, seed=n)
        with torch.no_grad():
            expected = torch_nets[name](inputs)
        found = untrained_nets[name](inputs.numpy())
        assert len(found) == len(FINE_TUNED[name].outputs) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.shape == tuple(theirs.shape) and ours.dtype == np.float32
            assert ours == pytest.approx(theirs.numpy(), abs=TOLERANCE)
        assert np.ptp(found[0]) > 0.01 or found[0].size < 5


def test_fine_tuned_and_stock_specs_differ() -> None:
    assert FINE_TUNED["rnet"].shape != STOCK["rnet"].shape
    assert {FINE_TUNED["pnet"].dynamic[axis] for axis in (2, 3)} == {PNET_MULTIPLE}


def test_a_difference_of_nan_counts_as_infinite(monkeypatch: pytest.MonkeyPatch) -> None:
    from stage1_faces.training import export

    def graph(values: np.ndarray) -> Callable[[np.ndarray], list[np.ndarray]]:
        return lambda _: [values]

    monkeypatch.setattr(export, "onnx_function", graph)
    net = nn.Identity()
    inputs = np.ones((2, 3), np.float32)
    assert max_difference(inputs + 0.25, net, inputs) == 0.25  # type: ignore[arg-type]
    assert max_difference(inputs * np.nan, net, inputs) == np.inf  # type: ignore[arg-type]


def test_the_cell_next_to_a_spot_changes_most() -> None:
    # A blank picture with one spot: the output that changes most is that of a cell next to the spot.
    torch.manual_seed(0)
    net = ExportWrapper(build_net("pnet")).eval()
    picture = torch.full((1, 3, 96, 96), float(GREY))
    with torch.no_grad():
        blank = net(picture)[0]
        picture[..., 48:52, 64:68] = 255
        change = (net(picture)[0] - blank)[0].abs()
    row, column = divmod(int(change.argmax()), 24)
    assert abs(row - 12) <= 1 and abs(column - 16) <= 1
    # A cell reads at most 35 px in each direction.
    assert (change[:3] == 0).all() and (change[:, :6] == 0).all()
