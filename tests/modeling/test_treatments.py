"""What people do to modules acts on every path: fast and plain, with gradients and without, masked, compiled."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize, prune
from torch.overrides import TorchFunctionMode

from hiera_det import Hiera, HieraMAE, intermediates
from hiera_det.errors import InputError
from hiera_det.modeling.block import HieraBlock, Mlp
from hiera_det.modeling.fast import attention, paths, slabs
from hiera_det.modeling.options import HieraOptions

OPTIONS = HieraOptions(16, 1, (1, 2, 2, 1), pretrain_size=64)
IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[True, False, True, False, True, False]] * 2)


def small(**fields: object) -> Hiera:
    """A trunk of the real structure that takes milliseconds, with positions that matter."""
    torch.manual_seed(0)
    trunk = Hiera(OPTIONS, **fields).eval()
    for name in trunk.no_weight_decay():
        nn.init.normal_(trunk.get_parameter(name))
    return trunk


class Scaled(nn.Module):
    """A parametrisation: twice the values."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class SqueezeExcite(nn.Module):
    """Stands around an MLP and looks across all tokens of an image."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * x.mean(dim=1, keepdim=True).sigmoid()


def peft_config(kind: str) -> Callable[[nn.Module], nn.Module]:
    """An adapter of peft's with random weights."""

    def wrap(trunk: nn.Module) -> nn.Module:
        import peft

        torch.manual_seed(1)
        layers = ["qkv", "fc1", "fc2", "blocks.1.proj"]
        if kind == "ia3":
            config = peft.IA3Config(target_modules=layers, feedforward_modules=["fc2"], init_ia3_weights=False)
        else:
            layers.append("patch_embed.proj")
            config = peft.LoraConfig(r=2, target_modules=layers, use_dora=kind == "dora", init_lora_weights=False)
        model = peft.get_peft_model(trunk, config).eval()
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "ia3" in name:
                nn.init.normal_(parameter)
        return model

    return wrap


def hooked(trunk: nn.Module) -> nn.Module:
    for name, module in trunk.named_modules():
        if name.endswith(("fc1", "qkv", "patch_embed", "attn", "norm2")):
            module.register_forward_hook(lambda module, args, output: 1.5 * output)
    trunk.blocks[0].mlp.fc2.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    return trunk


def parametrised(trunk: nn.Module) -> nn.Module:
    for module, name in ((trunk, "pos_embed"), (trunk.blocks[0].mlp.fc1, "weight"), (trunk.patch_embed.proj, "bias")):
        parametrize.register_parametrization(module, name, Scaled())
    nn.utils.parametrizations.spectral_norm(trunk.blocks[2].attn.qkv)
    return trunk


def pruned(trunk: nn.Module) -> nn.Module:
    for module, name in (
        (trunk, "pos_embed"),
        (trunk.blocks[0].mlp.fc1, "weight"),
        (trunk.blocks[1].attn.qkv, "weight"),
    ):
        prune.random_unstructured(module, name, amount=0.5)
    return trunk


def replaced(trunk: nn.Module) -> nn.Module:
    """Modules of other classes, and one with another forward on the instance, as accelerate sets it."""
    trunk.blocks[0].mlp = SqueezeExcite(trunk.blocks[0].mlp)
    trunk.blocks[1].ls2 = nn.LayerNorm(32)
    layer = trunk.blocks[2].mlp.fc1
    layer.forward = lambda x: 2 * nn.functional.linear(x, layer.weight, layer.bias)
    return trunk


class Eighths(nn.Linear):
    """A layer of another class with the same tensors, as bitsandbytes has them: what it computes is its own."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, (self.weight * 8).round() / 8, self.bias)


def subclassed(trunk: nn.Module) -> nn.Module:
    for module in trunk.modules():
        if type(module) is nn.Linear:
            module.__class__ = Eighths
    return trunk


def sparse(trunk: nn.Module) -> nn.Module:
    for module in (trunk.blocks[0].mlp.fc1, trunk.blocks[1].attn.qkv):
        values = nn.functional.threshold(module.weight.data, 0.02, 0.0)
        module.weight = nn.Parameter(values.to_sparse_csr(), requires_grad=False)
    return trunk


def widened(trunk: nn.Module) -> nn.Module:
    """A block of the trunk's own class that looks beyond mask units, in the place of one that does not."""
    torch.manual_seed(1)
    trunk.blocks[0] = HieraBlock(16, 16, 1, 4.0, 0.0, 64, 1, window=0).eval()
    return trunk


def quantised(trunk: nn.Module) -> nn.Module:
    model = torch.ao.quantization.quantize_dynamic(trunk, {nn.Linear})
    assert not any(type(module) is nn.Linear for module in model.modules())
    return model


def torchaos(config: str) -> Callable[[nn.Module], nn.Module]:
    """Layers of PyTorch's own class with weights that are no plain tensors."""

    def quantise(trunk: nn.Module) -> nn.Module:
        from torchao import quantization

        quantization.quantize_(trunk, getattr(quantization, config)())
        return trunk

    return quantise


def replicated(trunk: nn.Module) -> nn.Module:
    """What `torch.nn.parallel.replicate` makes for a GPU, after a step that follows an evaluation."""
    with torch.no_grad():
        replica(trunk)(IMAGES)
        trunk.pos_embed.add_(1.0)
    return replica(trunk)


def replica(trunk: nn.Module) -> nn.Module:
    modules = list(trunk.modules())
    copies = [module._replicate_for_data_parallel() for module in modules]
    for module, twin in zip(modules, copies, strict=True):
        for name, child in module._modules.items():
            setattr(twin, name, None if child is None else copies[modules.index(child)])
        for name, parameter in module._parameters.items():
            twin._parameters.pop(name, None)
            setattr(twin, name, None if parameter is None else parameter.detach())
    return copies[0]


TREATMENTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "lora": peft_config("lora"),
    "dora": peft_config("dora"),
    "ia3": peft_config("ia3"),
    "hooks": hooked,
    "parametrisations": parametrised,
    "pruning": pruned,
    "replaced": replaced,
    "subclasses": subclassed,
    "sparse": sparse,
    "widened": widened,
    "quantised": quantised,
    "quantised weights": torchaos("Int8WeightOnlyConfig"),
    "quantised activations": torchaos("Int8DynamicActivationInt8WeightConfig"),
    "replicated": replicated,
}
#: What is a copy of the trunk and must give the same.
COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "averaged": lambda trunk: torch.optim.swa_utils.AveragedModel(trunk).eval(),
    "deepcopy": copy.deepcopy,
    "pickle": lambda trunk: pickle.loads(pickle.dumps(trunk)),
    "saved": lambda trunk: torch.load(_saved(trunk), weights_only=False),
    "functional": lambda trunk: Functional(trunk),
}


def _saved(trunk: nn.Module) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(trunk, file)
    file.seek(0)
    return file


class Functional(nn.Module):
    """Calls a trunk by `torch.func.functional_call`, whose own values must not be seen."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.values = {name: parameter.detach().clone() for name, parameter in trunk.named_parameters()}
        self.trunk = copy.deepcopy(trunk)
        for parameter in self.trunk.parameters():
            nn.init.normal_(parameter)

    def forward(self, *args: Tensor) -> dict[str, Tensor]:
        return functional_call(self.trunk, self.values, args)


@contextmanager
def plain() -> Iterator[None]:
    """PyTorch's own operations only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "PLAIN", True)
        patch.setattr(paths, "WINS", frozenset())
        yield


def run(model: nn.Module, mode: str) -> dict[str, Tensor]:
    args = (IMAGES, MASK) if mode.startswith("masked") else (IMAGES,)
    with torch.set_grad_enabled(mode.endswith("gradients")):
        return {name: map_.detach().clone() for name, map_ in model(*args).items()}


def differ(got: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert list(got) == list(expected)
    return max(((got[name] - map_).abs().max() / map_.abs().max()).item() for name, map_ in expected.items())


MODES = ("with gradients", "without", "masked with gradients", "masked without")


@pytest.mark.usefixtures("fast_paths")
@pytest.mark.parametrize("treatment", TREATMENTS)
def test_a_treatment_acts_alike_on_every_path(treatment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slabs, "SLAB_TOKENS", 128)
    untreated = small()
    with plain():
        before = {mode: run(untreated, mode) for mode in MODES}
    model = TREATMENTS[treatment](small())
    for mode in MODES:
        with plain():
            expected = run(model, mode)
        assert differ(expected, before[mode]) > 1e-3, mode  # it does act
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert differ(run(model, mode), expected) < 1e-5, (mode, threads)


class Doubled(TorchFunctionMode):
    """Sees PyTorch's functions, and gives twice what `torch.nn.functional.linear` does."""

    def __torch_function__(self, func: object, types: object, args: object = (), kwargs: object = None) -> object:
        result = func(*args, **(kwargs or {}))
        return 2 * result if func is nn.functional.linear else result


@contextmanager
def exchanged(owner: object, name: str, edit: Callable[..., Tensor]) -> Iterator[None]:
    """A function is another for all modules at once."""
    before = getattr(owner, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, lambda *args, **kwargs: edit(before(*args, **kwargs), *args))
        yield


PATCHES = {
    "Linear.forward": lambda: exchanged(nn.Linear, "forward", lambda result, *args: 2 * result),
    "Linear.__call__": lambda: exchanged(nn.Linear, "__call__", lambda result, *args: 2 * result),
    "linear": lambda: exchanged(nn.functional, "linear", lambda result, *args: 2 * result),
    "attention": lambda: exchanged(nn.functional, "scaled_dot_product_attention", lambda result, *args: 2 * result),
    "gelu": lambda: exchanged(nn.functional, "gelu", lambda result, *args: result + 1),
    "Mlp.forward": lambda: exchanged(Mlp, "forward", lambda result, mlp, x: result + x.mean(dim=1, keepdim=True)),
    "function mode": Doubled,
}


@pytest.mark.usefixtures("fast_paths")
@pytest.mark.parametrize("patch", PATCHES)
def test_what_is_exchanged_for_all_modules_at_once_acts(patch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slabs, "SLAB_TOKENS", 128)
    monkeypatch.setattr(attention, "LONG_KEYS", 1)
    trunk = small()
    for mode in MODES:
        before = run(trunk, mode)
        with PATCHES[patch]():
            got = run(trunk, mode)
            with plain():
                expected = run(trunk, mode)
        assert differ(expected, before) > 1e-4, mode
        assert differ(got, expected) < 1e-5, mode


def test_windows_that_do_not_fit_the_order_of_the_tokens_are_refused() -> None:
    trunk = small(window_size=(8, 4, 14, 7))
    trunk.blocks[3].attn.window = 2
    with pytest.raises(InputError, match="window of 2x2 mask units: the trunk was built for others"):
        trunk(torch.zeros(1, 3, 7 * 32, 7 * 32))
    trunk = small()
    trunk.blocks[3].attn.window = 2
    with pytest.raises(InputError, match="or units are left out by a mask"):
        trunk(IMAGES, MASK)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(4, 4, 0), (7, 4, 3), (9, 4, 4), (3, 2, 1)])
def test_another_stem_gives_the_same_with_masks_or_is_refused(kernel: int, stride: int, padding: int) -> None:
    trunk = small()
    trunk.patch_embed.proj = nn.Conv2d(3, 16, kernel, stride, padding)
    if stride != 4:
        with pytest.raises(InputError, match=r"trunk\.patch_embed: gives 32x48 tokens of 64x96 pixels"):
            trunk(IMAGES)
    elif kernel > 7:
        with pytest.raises(InputError, match="mask: the stem has a convolution of kernel 9"):
            trunk(IMAGES, MASK)
    else:
        whole = trunk(IMAGES)["stage1"].unflatten(3, (3, 8)).unflatten(2, (2, 8)).movedim((2, 4), (1, 2)).flatten(1, 2)
        torch.testing.assert_close(trunk(IMAGES, torch.ones_like(MASK))["stage1"], whole)


def test_a_branch_that_is_always_dropped_is_nothing() -> None:
    trunk = small().train()
    trunk.blocks[0].drop_path.rate = 1.0
    x = torch.ones(2, 3, 4)
    assert torch.equal(trunk.blocks[0].drop_path(x), torch.zeros_like(x))


@pytest.mark.usefixtures("fast_paths")
@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_gives_what_the_trunk_gives(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slabs, "SLAB_TOKENS", 128)
    trunk = small()
    run(trunk, "without")
    model = COPIES[kind](trunk)
    for mode in MODES:
        with plain():
            expected = run(trunk, mode)
        assert differ(run(model, mode), expected) < 1e-5, mode


@pytest.mark.usefixtures("fast_paths")
@pytest.mark.parametrize("treatment", ["lora", "dora", "ia3", "hooks", "replaced", "subclasses", "quantised weights"])
def test_a_treatment_acts_in_a_compiled_trunk(treatment: str) -> None:
    torch._dynamo.reset()
    is_slow = treatment == "dora"  # its graphs take ten seconds
    model = TREATMENTS[treatment](small(depths=(1, 1, 1, 1), out_features=(1 if is_slow else 3,)))
    compiled = torch.compile(model, backend="eager")
    for mode in ("without",) if is_slow else ("without", "masked without"):
        with plain():
            expected = run(model, mode)
        assert differ(run(compiled, mode), expected) < 1e-5, mode


@pytest.mark.usefixtures("fast_paths")
@pytest.mark.parametrize("mask", [None, MASK])
def test_what_a_hook_keeps_is_not_overwritten(mask: Tensor | None) -> None:
    trunk = small(layer_scale=True)
    kept: dict[str, tuple[Tensor, Tensor]] = {}
    for name, module in trunk.named_modules():

        def keep(module: nn.Module, args: object, output: object, name: str = name) -> None:
            if isinstance(output, Tensor):
                kept[name] = output, output.clone()

        module.register_forward_hook(keep)
    with torch.no_grad():
        trunk(IMAGES, mask)
    assert len(kept) == sum(1 for module in trunk.modules() if not isinstance(module, nn.ModuleList)) - 1
    assert [name for name, (output, copied) in kept.items() if not torch.equal(output, copied)] == []


@pytest.mark.usefixtures("fast_paths")
@pytest.mark.parametrize("place", ["mlp", "attn", "ls2", "drop_path", "mlp.fc1"])
def test_a_module_that_gives_what_it_keeps_is_not_overwritten(place: str) -> None:
    class Constant(nn.Module):
        def __init__(self, value: Tensor) -> None:
            super().__init__()
            self.value = value

        def forward(self, *args: object) -> Tensor:
            return self.value

    trunk = small()
    value = torch.randn(2, 16 * 24, 64 if place == "mlp.fc1" else 16)
    trunk.blocks[0].set_submodule(place, constant := Constant(value.clone()))
    with torch.no_grad():
        trunk(IMAGES)
    assert torch.equal(constant.value, value)


@pytest.mark.usefixtures("fast_paths")
def test_paths_dropped_in_evaluation_are_drawn_for_whole_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slabs, "SLAB_TOKENS", 64)
    trunk = small(drop_path_rate=0.9)
    for block in trunk.blocks:
        block.drop_path.train()
    drawn = []
    for way in (plain, torch.no_grad):
        with way(), torch.no_grad():
            torch.manual_seed(3)
            drawn.append(trunk(IMAGES))
    assert differ(*drawn) < 1e-5


@pytest.mark.usefixtures("fast_paths")
def test_transforms_of_functions_give_what_a_loop_gives() -> None:
    trunk = small(out_features=(4,)).double()
    images, tangents = IMAGES.double(), torch.randn(IMAGES.shape, dtype=torch.float64)
    weights = {name: parameter.detach() for name, parameter in trunk.named_parameters()}

    def last(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
        return functional_call(trunk, parameters, (image[None],))["stage4"][0]

    expected = trunk(images)["stage4"].detach()
    torch.testing.assert_close(vmap(last, (None, 0))(weights, images), expected)
    with torch.no_grad():
        torch.testing.assert_close(vmap(last, (None, 0))(weights, images), expected)
        many = {name: torch.stack([value, 2 * value]) for name, value in weights.items()}
        ensemble = vmap(last, (0, None))(many, images[0])
        for i, scale in enumerate((1, 2)):
            one = last({name: scale * value for name, value in weights.items()}, images[0])
            torch.testing.assert_close(ensemble[i], one)
        out, moved = jvp(lambda x: trunk(x)["stage4"], (images,), (tangents,))
        step = 1e-6 * tangents
        nearby = (trunk(images + step)["stage4"] - trunk(images - step)["stage4"]) / 2e-6
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(moved, nearby, rtol=1e-4, atol=1e-6)
    per_image = vmap(grad(lambda p, x: last(p, x).square().sum()), (None, 0))(weights, images)
    trunk(images)["stage4"].square().sum().backward()
    for name, parameter in trunk.named_parameters():
        torch.testing.assert_close(per_image[name].sum(dim=0), parameter.grad)


def test_gradients_of_gradients_are_right_by_the_math_kernel_and_refused_else() -> None:
    trunk, images = small(out_features=(3,)).double(), IMAGES[:1].double().requires_grad_()

    def penalty(images: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(trunk(images)["stage3"].sin().sum(), images, create_graph=True)
        return slope.square().sum()

    with sdpa_kernel(SDPBackend.MATH):
        (got,) = torch.autograd.grad(penalty(images), images)
        step = torch.randn(images.shape, dtype=torch.float64) * 1e-5
        nearby = penalty(images + step) - penalty(images - step)
    torch.testing.assert_close((2 * got * step).sum(), nearby.detach(), rtol=1e-4, atol=1e-12)
    with pytest.raises(RuntimeError, match="not implemented"):
        torch.autograd.grad(penalty(images), images)


@pytest.mark.parametrize("fields", [{}, {"window_size": (8, 4, 14, 7), "window_padding": "mask"}, {"frames": 4}])
def test_a_traced_graph_holds_for_all_sizes(fields: dict[str, object]) -> None:
    trunk = small(**fields)
    graph = torch.fx.symbolic_trace(trunk)
    for height, width in ((64, 96), (224, 32)):
        images = torch.randn(2, 3, *((4,) if "frames" in fields else ()), height, width)
        assert differ(graph(images), trunk(images)) < 1e-5
    with pytest.raises(InputError, match="width must be a multiple of 32"):
        graph(torch.randn(2, 3, *((4,) if "frames" in fields else ()), 64, 65))
    with pytest.raises(InputError, match=r"mask: this graph of torch\.fx was traced"):
        graph(images, MASK)


def test_torchvision_extracts_features_of_blocks_and_layers() -> None:
    from torchvision.models import feature_extraction as extraction

    trunk, seen = small(), {}
    for name in ("blocks.1", "blocks.2.mlp"):
        trunk.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: seen.__setitem__(name, output)
        )
    trunk(IMAGES)
    extractor = extraction.create_feature_extractor(small(), list(seen))
    assert differ(extractor(IMAGES), dict(seen)) < 1e-5


@pytest.mark.parametrize("fields", [{}, {"pos_embed": "absolute_win", "layer_scale": True}, {"frames": 4}])
def test_every_parameter_is_set_after_meta(fields: dict[str, object]) -> None:
    with torch.device("meta"):
        trunk = Hiera(OPTIONS, **fields)
    trunk = trunk.to_empty(device="cpu")
    for parameter in trunk.parameters():
        nn.init.constant_(parameter, float("nan"))
    torch.manual_seed(0)
    trunk.reset_parameters()
    torch.manual_seed(0)
    for (name, parameter), expected in zip(
        trunk.named_parameters(), Hiera(OPTIONS, **fields).parameters(), strict=True
    ):
        assert torch.equal(parameter, expected), name
    trunk.blocks[0].norm1 = nn.LayerNorm(16, elementwise_affine=False)
    trunk.blocks[0].attn.qkv = nn.Linear(16, 48, bias=False)
    trunk.reset_parameters()


def test_the_trunk_builds_and_runs_without_values() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert Hiera(OPTIONS).eval()(torch.randn(1, 3, 64, 96))["stage4"].shape == (1, 128, 2, 3)
    trunk = small()
    before = run(trunk, "without")
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        trunk(torch.randn(1, 3, 64, 96))
    assert differ(run(trunk, "without"), before) == 0


@pytest.mark.usefixtures("fast_paths")
@pytest.mark.filterwarnings("ignore")
def test_flat_parameters_of_fsdp_are_those_of_the_step_before(tmp_path: Path) -> None:
    from torch import distributed
    from torch.distributed.fsdp import FullyShardedDataParallel

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        found = []
        for model in (small(), FullyShardedDataParallel(small(), device_id=torch.device("cpu"))):
            optimizer = torch.optim.SGD(model.parameters(), 0.1)
            for _ in range(2):
                run(model, "without")  # an evaluation between the steps
                sum(map_.square().mean() for map_ in model(IMAGES).values()).backward()
                optimizer.step()
                optimizer.zero_grad()
            found.append(run(model, "without"))
    finally:
        distributed.destroy_process_group()
    assert differ(found[0], run(small(), "without")) > 1e-2  # the steps are large
    assert differ(found[1], found[0]) < 1e-5


def test_what_is_done_to_the_stem_acts_in_pretraining() -> None:
    torch.manual_seed(0)
    model = HieraMAE(OPTIONS, decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=2).eval()
    before = model(IMAGES, mask=MASK).loss.item()
    model.patch_embed.register_forward_hook(lambda module, args, output: 3 * output)
    assert abs(model(IMAGES, mask=MASK).loss.item() - before) > 1e-4


@pytest.mark.usefixtures("fast_paths")
@pytest.mark.parametrize("fields", [{}, {"window_size": (8, 4, 14, 7)}, {"layer_scale": True}, {"frames": 4}])
def test_a_batch_of_no_images_gives_empty_maps_and_autocast_one_type(fields: dict[str, object]) -> None:
    trunk = small(**fields)
    images = torch.randn(2, 3, *((4,) if "frames" in fields else ()), 64, 96)
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            full, none = trunk(images), trunk(images[:0])
            assert {n: m.shape[1:] for n, m in none.items()} == {n: m.shape[1:] for n, m in full.items()}
            with torch.autocast("cpu", torch.bfloat16):
                assert len({map_.dtype for map_ in trunk(images).values()}) == 1


def test_frozen_parts_do_not_learn_and_drop_no_paths() -> None:
    trunk = small(drop_path_rate=0.5)
    trunk.freeze(1)
    assert trunk.frozen == ("stem", "positions", "stage1")
    trunk.train()
    learning = {name for name, parameter in trunk.named_parameters() if parameter.requires_grad}
    assert learning == {name for name, _ in trunk.named_parameters() if name.startswith("blocks.") and name[7] != "0"}
    assert [module.training for module in (trunk.patch_embed, *trunk.blocks)] == [False, False, *[True] * 5]
    trunk.freeze(["stage3"])
    assert not trunk.blocks[3].training
    assert trunk.blocks[5].training
    for wrong in (5, -1, "stem", ["stage5"]):
        with pytest.raises(InputError, match="give a number of stages, 0 to 4, or some of stem, positions, stage1"):
            trunk.freeze(wrong)


def test_the_pixels_that_the_weights_expect_are_on_the_trunk() -> None:
    assert small().pixel_mean == (123.675, 116.28, 103.53)  # ImageNet's 0.485, 0.456, 0.406 of 255
    assert small().pixel_std == (58.395, 57.12, 57.375)
    assert small(frames=4).pixel_mean == (114.75,) * 3
    for text in (Hiera.__doc__, (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")):
        assert "red, green and blue" in text
        assert "`trunk.pixel_mean`" in text


class Around(nn.Module):
    """Somebody's own module around a block."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, grid: object) -> Tensor:
        return 2 * self.block(x, grid)


@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
def test_blocks_that_are_wrapped_left_out_or_exchanged_act_on_every_path(
    mask: Tensor | None,
) -> None:
    trunk = small(depths=(2, 2, 2, 1))
    kept = list(trunk.blocks)
    for edit in (
        {1: nn.Identity()},
        {0: Around(kept[0])},
        {5: nn.Identity()},
        {2: Around(kept[2]), 6: Around(kept[6])},
    ):
        for i, block in enumerate(kept):
            trunk.blocks[i] = edit.get(i, block)
        tokens = trunk.embed(IMAGES, mask)
        expected = {}
        for i, block in enumerate(trunk.blocks):
            x = tokens.x if isinstance(block, nn.Identity) else block(tokens.x, tokens.grid)
            tokens = tokens.moved(x, trunk.options.unit_strides[trunk.options.block_stages[i] :])
            if i in trunk.stage_ends:
                expected[f"stage{trunk.stage_ends.index(i) + 1}"] = tokens.map()
        torch.testing.assert_close(trunk(IMAGES, mask), expected)
        with torch.no_grad():
            torch.testing.assert_close(trunk(IMAGES, mask), expected)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(trunk, backend="eager")(IMAGES, mask), expected)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda trunk: trunk.blocks.pop(3), r"trunk\.blocks: 5 blocks, and the trunk was built with 6"),
        (lambda trunk: trunk.blocks.append(trunk.blocks[5]), "7 blocks, and the trunk was built with 6"),
        (lambda trunk: trunk.__setattr__("blocks", trunk.blocks[:4]), "4 blocks, and the trunk was built with 6"),
        (
            lambda trunk: trunk.blocks.__setitem__(3, nn.Identity()),
            r"trunk\.blocks\[3\]: Identity gives \(2, 96, 32\), not tokens \(2, 24, 64\)",
        ),
        (lambda trunk: trunk.blocks.__setitem__(4, Around(trunk.blocks[5])), r"trunk\.blocks\[4\]: Around gives"),
    ],
)
def test_blocks_that_do_not_fit_are_refused_in_one_line(edit: Callable[[Hiera], object], says: str) -> None:
    trunk = small()
    edit(trunk)
    for call in (trunk, lambda images: [trunk.train(), trunk(images)], lambda images: intermediates(trunk, images)):
        with pytest.raises(InputError, match=says) as refused, torch.no_grad():
            call(IMAGES)
        assert "\n" not in str(refused.value)


def test_attentions_of_a_replaced_block_are_refused() -> None:
    trunk = small()
    trunk.blocks[1] = Around(trunk.blocks[1])
    assert len(intermediates(trunk, IMAGES).hidden_states) == 7
    with pytest.raises(InputError, match=r"attentions: trunk\.blocks\[1\] is no HieraBlock but Around"):
        intermediates(trunk, IMAGES, attentions=True)
