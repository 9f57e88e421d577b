"""What the trunk does for speed changes nothing: slabs of local blocks, compiled graphs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from hiera_det.engine.compilation import OLDEST
from hiera_det.modeling import hiera
from hiera_det.modeling.fast import linear, resampling, slabs
from hiera_det.modeling.hiera import STAGES, Hiera

SMALL = {"embed_dim": 16, "num_heads": 1, "depths": (1, 2, 2, 1)}
WINDOWED = {"window_size": (8, 4, 4, 2), "global_blocks": (4,)}
MASKED = {"window_size": (8, 4, 14, 7), "window_padding": "mask"}

pytestmark = pytest.mark.usefixtures("fast_paths")


def small(**overrides: object) -> Hiera:
    """A trunk of the real structure that takes milliseconds, with positions that matter."""
    torch.manual_seed(0)
    trunk = Hiera(**(SMALL | overrides)).eval()  # type: ignore[arg-type]
    for name in trunk.no_weight_decay():
        nn.init.normal_(trunk.get_parameter(name))
    return trunk


def assert_close(got: dict[str, Tensor], expected: dict[str, Tensor], limit: float = 1e-5) -> None:
    """Same maps in the same order, equal to a share of their largest value."""
    assert list(got) == list(expected)
    for name, map_ in expected.items():
        assert got[name].shape == map_.shape
        assert got[name].stride() == map_.stride()
        assert (got[name] - map_).abs().max() <= limit * map_.abs().max(), name


@pytest.mark.parametrize("tokens", [1, 700, 10**9])
@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ({}, (1, 3, 160, 96)),
        ({}, (3, 3, 64, 96)),
        (WINDOWED, (2, 3, 128, 64)),  # units in groups of 2 x 2
        (WINDOWED, (2, 3, 160, 96)),  # windows do not divide
        (MASKED, (1, 3, 96, 96)),
        ({"frames": 4}, (2, 3, 4, 64, 96)),
        ({"out_features": ("stage2",)}, (2, 3, 64, 64)),
        ({"out_features": ("stage3", "stage1")}, (2, 3, 64, 64)),
        ({"layer_scale": True, "project_shortcut": False}, (2, 3, 64, 64)),
    ],
)
def test_slabs_give_what_the_whole_image_gives(
    fields: dict[str, object], shape: tuple[int, ...], tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slabs, "SLAB_TOKENS", tokens)
    trunk, images = small(**fields), torch.randn(shape)
    seen = []
    monkeypatch.setattr(hiera, "run_in_slabs", lambda *a: seen.append(1) or slabs.run_in_slabs(*a))
    expected = {name: map_.detach() for name, map_ in trunk(images).items()}
    assert not seen  # gradients are recorded
    with torch.inference_mode():
        assert_close(trunk(images), expected)
    assert seen


def test_a_hook_sees_all_tokens_of_a_block_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slabs, "SLAB_TOKENS", 64)
    trunk, shapes = small(), []
    trunk.blocks[1].mlp.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
    with torch.no_grad():
        trunk(torch.randn(2, 3, 64, 96))
    assert shapes == [(2, 6 * 16, 32)]


def test_bfloat16_is_as_near_to_float32_as_its_precision() -> None:
    trunk, images = small(**WINDOWED), torch.randn(2, 3, 128, 160)
    with torch.inference_mode():
        expected = trunk(images)
        with torch.autocast("cpu", torch.bfloat16):
            got = trunk(images)
        whole = trunk.bfloat16()(images.bfloat16())
    for name in STAGES:
        for maps in (got, whole):
            error = (maps[name].float() - expected[name]).norm() / expected[name].norm()
            assert error < 3e-2, name


class Graphs:
    """A backend that counts the graphs it is given, and runs them as they are."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        self.count += 1
        return graph.forward


@pytest.mark.skipif(TorchVersion(torch.__version__) < OLDEST, reason="COMPILE is refused there: it comes to no end")
@pytest.mark.parametrize("fields", [{}, WINDOWED, {"pos_embed": "absolute_win"}], ids=["global", "windowed", "win"])
def test_one_compiled_graph_takes_all_sizes(fields: dict[str, object]) -> None:
    torch._dynamo.reset()
    trunk, graphs = small(**fields), Graphs()
    compiled = torch.compile(trunk, backend=graphs, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for height, width in ((96, 160), (224, 224), (128, 288), (320, 256)):
            images = torch.randn(2, 3, height, width)
            assert_close(compiled(images), trunk(images))
    assert graphs.count == 1


@pytest.mark.skipif(TorchVersion(torch.__version__) < OLDEST, reason="COMPILE is refused there: it comes to no end")
def test_ten_sizes_beyond_one_window_are_two_graphs_where_the_first_image_is_square() -> None:
    torch._dynamo.reset()
    trunk, graphs = small(**WINDOWED), Graphs()
    compiled = torch.compile(trunk, backend=graphs, fullgraph=True, dynamic=True)
    sizes = [(128, 128), (96, 160), (160, 96), (224, 224), (160, 320), (288, 96), (192, 128), (256, 256), (96, 96)]
    with torch.no_grad():
        for height, width in [*sizes, (320, 352)]:
            images = torch.randn(1, 3, height, width)
            assert_close(compiled(images), trunk(images))
    assert graphs.count <= 2


@pytest.mark.skipif(TorchVersion(torch.__version__) < OLDEST, reason="COMPILE is refused there: it comes to no end")
def test_compiled_bfloat16_and_training_equal_eager() -> None:
    torch._dynamo.reset()
    trunk, images = small(), torch.randn(1, 3, 64, 96)
    compiled = torch.compile(trunk, backend="aot_eager", fullgraph=True)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for name, map_ in trunk(images).items():
            got = compiled(images)[name]
            assert got.dtype == map_.dtype
            assert (got.float() - map_.float()).norm() <= 2e-2 * map_.float().norm()
    gradients = []
    for model in (trunk, compiled):
        trunk.zero_grad()
        model(images)["stage4"].square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in trunk.parameters()])
    for got, expected in zip(*gradients, strict=True):
        assert (got - expected).abs().max() <= 1e-4 * max(1e-3, expected.abs().max())


def test_the_operations_of_compiled_graphs_keep_their_promises() -> None:
    x, w1, b1 = torch.randn(2, 9, 8), torch.randn(16, 8), torch.randn(16)
    torch.library.opcheck(linear._opaque_product, (x, w1, b1))
    torch.library.opcheck(resampling._opaque_bicubic, (torch.randn(1, 7, 7, 4), 9, 12, False))


def test_a_traced_graph_has_nothing_of_this_machine() -> None:
    trunk, images = small(), torch.randn(1, 3, 64, 96)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        traced = torch.jit.trace(trunk, images, check_trace=False, strict=False)
    code = str(traced.inlined_graph)
    assert "scaled_dot_product_attention" in code
    assert "baddbmm" not in code
    assert code.count("aten::scaled_dot_product_attention") == len(trunk.blocks)  # no slabs
