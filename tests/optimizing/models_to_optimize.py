"""Models written in many ways, for the tests of `optimize` and of the compile backend."""

import copy
import io
import operator

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from halfstride import functional
from halfstride._core.algorithms import ALGORITHMS
from halfstride._core.case import CASES
from halfstride.optimizing import optimize
from halfstride.optimizing.example import difference
from halfstride.optimizing.lazy import LazyTensor


class Model(nn.Module):
    """A forward pass given as a function of the model and its inputs, over parts with random weights."""

    def __init__(self, run, **parts):
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs):
        return self.run(self, *inputs)


def randomised(model):
    for buffer_or_parameter in (*model.parameters(), *model.buffers()):
        if buffer_or_parameter.is_floating_point():
            with torch.no_grad():
                buffer_or_parameter.copy_(torch.rand_like(buffer_or_parameter) + 0.1)
                if isinstance(buffer_or_parameter, nn.Parameter):
                    buffer_or_parameter.sub_(0.6)
    return model


def assert_same(actual, expected, tolerance=1e-10):
    assert difference(actual, expected, each=False, strides=False) <= tolerance


def results(model, inputs):
    """Output, and gradients to the inputs and all parameters."""
    torch.manual_seed(0)
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    output = model(*inputs)
    assert not any(isinstance(leaf, LazyTensor) for leaf in torch.utils._pytree.tree_leaves(output))
    total = sum(
        (leaf * torch.randn(leaf.shape, dtype=leaf.dtype)).sum() for leaf in torch.utils._pytree.tree_leaves(output)
    )
    wanted = [*inputs, *(p for p in model.parameters() if p.requires_grad)]
    return output, torch.autograd.grad(total, wanted, allow_unused=True)


def check(model, *inputs, finds=1, others=()):
    """Optimise a model, and compare it with itself as it was: on the example, on other inputs, forwards, backwards."""
    model = model.double()
    inputs = [x.double() for x in inputs]
    original = copy.deepcopy(model)
    keys = list(model.state_dict())
    same, report = optimize(model, tuple(inputs))
    assert same is model
    assert list(model.state_dict()) == keys
    found = [row for row in report.rows if row.became]
    assert finds is None or len(found) == finds, str(report)
    assert report.optimized == bool(found), str(report)
    for sample in (inputs, [torch.randn_like(x) for x in inputs], *others):
        sample = [x.double() for x in sample]
        for train in (True, False):
            model.train(train)
            original.train(train)
            expected = results(original, sample)
            assert_same(results(model, sample), expected)
            for context in (torch.no_grad, torch.inference_mode):
                with context():
                    outputs = []
                    for each in (model, original):
                        torch.manual_seed(0)
                        outputs.append(each(*sample))
                    assert_same(*outputs)
        assert_same(list(model.state_dict().values()), list(original.state_dict().values()))
    return model, report


def compared(model):
    """Optimise a model in float64, and compare it with its original in training and in inference; returns both."""
    model = randomised(model)
    model, original = model.double(), copy.deepcopy(model).double()
    model, report = optimize(model, image().double())
    assert report.optimized, str(report)
    for x in (image().double(), image(height=3).double()):
        assert_same(results(model, [x]), results(original, [x]))
        with torch.inference_mode():
            assert_same(model(x), original(x))
    return model, original


PREFERRED = {"transposed": ("phases", "scatter"), "resize": ("folded", "by_parts", "scatter")}


def prefer(monkeypatch, **preferred):
    """Let the planner choose the first algorithm of a form that can compute the case."""

    def plan(form, axes, input_shape, weight_shape, geometry, *_):
        case = CASES[form](axes, input_shape, weight_shape, *geometry)
        able = [name for name in preferred.get(form, ()) if ALGORITHMS[name].unsupported_reason(case) is None]
        return case, able[0] if able else "native"

    monkeypatch.setattr(functional, "plan", plan)


def conv(inputs=4, outputs=3, kernel=3, **options):
    options.setdefault("padding", kernel // 2)
    return nn.Conv2d(inputs, outputs, kernel, **options)


def image(channels=4, height=5, width=6, batch=2):
    return torch.randn(batch, channels, height, width)


def up(x, scale=2.0, mode="nearest"):
    return F.interpolate(x, scale_factor=scale, mode=mode)


# Upsampling, however it is written ------------------------------------------------------------------------------------

FOUND = {
    "modules": lambda m, x: m.conv(m.up(x)),
    "function": lambda m, x: m.conv(F.interpolate(x, scale_factor=2)),
    "function, factor per axis": lambda m, x: m.conv(F.interpolate(x, scale_factor=(3.0, 2.0))),
    "function, one axis": lambda m, x: m.conv(F.interpolate(x, scale_factor=(1, 4))),
    "nearest-exact": lambda m, x: m.conv(up(x, 3, "nearest-exact")),
    "size": lambda m, x: m.conv(F.interpolate(x, size=(2 * x.shape[2], 3 * x.shape[3]))),
    "recomputed": lambda m, x: m.conv(F.interpolate(x, scale_factor=2.0, recompute_scale_factor=True)),
    "twice": lambda m, x: m.conv(up(up(x), 2)),
    "repeat_interleave": lambda m, x: m.conv(x.repeat_interleave(2, 2).repeat_interleave(2, dim=3)),
    "torch.repeat_interleave": lambda m, x: m.conv(torch.repeat_interleave(x, 3, dim=-1)),
    "expand and reshape": lambda m, x: m.conv(
        x[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 3).reshape(*x.shape[:2], 2 * x.shape[2], -1)
    ),
    "no batch": lambda m, x: torch.stack([m.conv(one.repeat_interleave(2, -1)) for one in x]),
    "functional conv": lambda m, x: F.conv2d(up(x), m.conv.weight, padding=1),
    "torch.conv2d, dilated": lambda m, x: torch.conv2d(up(x), m.conv.weight, m.conv.bias, 1, (2, 1), (2, 1)),
    "same": lambda m, x: F.conv2d(up(x), m.conv.weight, padding="same"),
    "valid": lambda m, x: F.conv2d(up(x), m.conv.weight, m.conv.bias, padding="valid"),
    "activation between": lambda m, x: m.conv(F.leaky_relu(up(x), 0.2)),
    "gate, scalar and bias between": lambda m, x: m.conv(2 * up(x) / 3 + m.conv.weight.mean((0, 2, 3))[:, None, None]),
    "two of a kind": lambda m, x: m.conv(up(x) * torch.sigmoid(up(x + 1))),
    "cast between": lambda m, x: m.conv(up(x.double()).to(x.dtype)),
    "no cast between": lambda m, x: m.conv(up(x).to(x.dtype).contiguous().to(x.device)),
    "zero padding": lambda m, x: F.conv2d(F.pad(up(x), (1, 2, 0, 1)), m.conv.weight),
    "replicate padding": lambda m, x: F.conv2d(F.pad(up(x), (1, 2, 1, 1), mode="replicate"), m.conv.weight),
    "circular padding": lambda m, x: F.conv2d(F.pad(up(x), (1, 2, 1, 1), mode="circular"), m.conv.weight),
    "reflect padding": lambda m, x: F.conv2d(F.pad(up(x), (1, 1, 1, 1), mode="reflect"), m.conv.weight),
    "called twice": lambda m, x: m.conv(up(x)) + m.conv(up(x.flip(2))),
    "a tuple and a dict out": lambda m, x: {"a": (m.conv(up(x)), [x])},
    "the upsampled too": lambda m, x: (lambda y: (m.conv(y), y, y))(up(x)),
    "and again": lambda m, x: (lambda y: m.conv(y) + y.mean())(up(x)),
    "dynamic control flow": lambda m, x: m.conv(up(x)) if x.mean() < 10 else up(x),
    "gradients stopped": lambda m, x: m.conv(up(x.detach())) + x.mean(),
    "one image, its channels last": lambda m, x: m.conv(up(x[:1].permute(0, 2, 3, 1).clone().permute(0, 3, 1, 2))),
    "one image, transposed": lambda m, x: m.conv(up(x[0].flatten(1).T.clone().T.reshape(1, *x.shape[1:]))),
    "channels last inside": lambda m, x: m.conv(up(x.contiguous(memory_format=torch.channels_last))),
    "in place": lambda m, x: m.conv(F.relu(up(x), inplace=True)),
    "in place, positional": lambda m, x: m.conv(F.relu(up(x), True)),
    "in place, methods": lambda m, x: m.conv(up(x).mul_(2).add_(up(x)).clamp_(-2, 2)),
    "in place, operators": lambda m, x: m.conv(operator.isub(operator.itruediv(up(x), 2), x.mean())),
    "in place, used again": lambda m, x: (lambda y: m.conv(y.relu_()) + y.mean())(up(x)),
}


ONE_BY_ONE = {
    "shortcut": lambda m, x: m.conv(up(x)) + m.one(up(x)),
    "one tensor for both": lambda m, x: (lambda y: m.conv(y) + m.one(y))(up(x)),
    "in a row": lambda m, x: m.last(F.relu(m.one(up(x)))),
}


CAT = {
    "skip behind": lambda m, x, skip: m.conv(torch.cat([up(x), skip], 1)),
    "skip in front": lambda m, x, skip: m.conv(torch.cat((skip, up(x)), dim=-3)),
    "skip at both ends": lambda m, x, skip: m.conv(torch.concat([skip[:, :1], up(x), skip[:, 1:]], axis=1)),
    "two upsampled": lambda m, x, skip: m.conv(torch.cat([up(x), up(skip[:, :, ::2, ::2], 2)], 1)),
    "upsampled differently": lambda m, x, skip: m.conv(torch.cat([up(x), up(x[:, :3, :, ::2], (2, 4))], 1)),
    "activation behind": lambda m, x, skip: m.conv(F.silu(torch.cat([up(x), skip], 1)) * 2),
    "nested": lambda m, x, skip: m.conv(torch.cat([torch.cat([skip[:, :2], up(x)], 1), skip[:, 2:]], 1)),
}


LEFT = {
    "bilinear": lambda m, x: m.conv(up(x, 2, "bilinear")),
    "no integer": lambda m, x: m.conv(up(x, 1.5)),
    "odd size": lambda m, x: m.conv(F.interpolate(x, size=(7, 9))),
    "scale 41 is not exact": lambda m, x: m.conv(up(x[..., :2, :2], 41)),
    "strided": lambda m, x: F.conv2d(up(x), m.conv.weight, stride=2),
    "reflected far": lambda m, x: F.conv2d(F.pad(up(x), (3, 3, 3, 3), mode="reflect"), m.conv.weight),
    "no convolution": lambda m, x: up(x) * m.conv.bias.sum(),
    "cut before": lambda m, x: m.conv(up(x)[..., 1:-1]),
    "one view of it": lambda m, x: m.conv(up(x).view(x.shape[0], 4, -1, 6)),
    "batch repeated": lambda m, x: m.conv(x.repeat_interleave(2, 0)),
    "mask that varies": lambda m, x: m.conv(up(x) * torch.arange(12, device=x.device)),
    "cat along an image's axis": lambda m, x: m.conv(torch.cat([up(x), up(x)], 2)),
    "pixel shuffle": lambda m, x: F.pixel_shuffle(m.conv4(x), 2),
}


# Changes in place, and aliases ----------------------------------------------------------------------------------------
def changing(change):
    """A model that changes its input after it was upsampled."""

    def run(m, x):
        x = x * 1
        y = up(x)
        change(x)
        return m.conv(y) + m.other(up(x)) + x.mean()

    return run


def source_changed_by_out(m, x):
    x = x.detach() * 1
    y = up(x)
    with torch.no_grad():
        torch.add(x, 1, out=x)
    return m.conv(y)


def source_changed_by_numpy(m, x):
    x = x.detach().clone()
    y = up(x)
    x.numpy()[:] = 0
    return m.conv(y)


def skip_changed(m, x):
    skip = up(x, 2, "bilinear")[:, :2] * 1
    y = torch.cat([up(x[:, :2]), skip], 1)
    skip.zero_()
    return m.conv(y)


def result_changed_after_use(m, x):
    y = up(x)
    z = m.conv(y).mean().detach()
    y += 1
    return z, m.other(y), y


def result_changed_through_a_view(m, x):
    y = up(x)
    y[:, 0] *= 2
    y.view(-1)[:7].add_(x.mean())
    return m.conv(y), y


def changed(change):
    """A model that returns what a function of the upsampled tensor, which may change it in place, returns."""

    def run(m, x):
        y = up(x)
        z = change(y)
        return m.conv(y), y, z

    return run


IN_PLACE = {
    "source": changing(lambda x: x.mul_(2)),
    "source by index": changing(lambda x: operator.setitem(x, (slice(None), slice(1)), 0)),
    "source through a view": changing(lambda x: operator.iadd(x[:, 1], 1)),
    "source by relu": changing(lambda x: F.relu(x, inplace=True)),
    "source by data": changing(lambda x: x.data.zero_()),
    "source by aten": changing(lambda x: torch.ops.aten.mul_.Tensor(torch.ops.aten.mul_(x, 2), x.mean().detach())),
    "source by out": source_changed_by_out,
    "source by numpy": source_changed_by_numpy,
    "skip": skip_changed,
    "result": changed(lambda y: y.mul_(y.mean())),
    "result after use": result_changed_after_use,
    "result through a view": result_changed_through_a_view,
    "result of a cast": changed(lambda y: y.to(y.dtype).add_(1)),  # the same tensor
    "result of dropout": changed(lambda y: F.dropout(y, training=False).add_(1)),  # the same tensor
    "copy": changed(lambda y: y.clone().add_(1)),
}


# Code that looks closely ----------------------------------------------------------------------------------------------
class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradient * (s + x * s * (1 - s))


class Same(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


class Inside(torch.autograd.Function):
    """Returns what was made inside, where no gradients are recorded."""

    @staticmethod
    def forward(ctx, x):
        return up(x)

    @staticmethod
    def backward(ctx, gradient):
        return 3 * F.avg_pool2d(gradient, 2)


def questions(m, x):
    y = up(x)
    assert isinstance(y, torch.Tensor)
    assert torch.is_tensor(y)
    assert y.shape == (*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3]) == y.size()
    assert (y.dtype, y.device, y.layout, y.ndim, y.dim()) == (x.dtype, x.device, x.layout, 4, 4)
    assert y.requires_grad == (torch.is_grad_enabled() and x.requires_grad)
    assert (y.grad_fn is None) != y.requires_grad
    assert y.numel() == 4 * x.numel()
    assert y.stride() == y.clone().stride()
    assert y.is_contiguous()
    assert not y.is_complex()
    assert len(y) == len(x)
    return m.conv(y) * y.size(1)


def values(m, x):
    y, z = up(x), up(x)
    assert y.detach().numpy().shape == y.shape
    assert y.tolist()[0][0][0][0] == x.detach()[0, 0, 0, 0].item()
    assert "tensor" in repr(up(x))
    assert up(x).data_ptr() != 0
    assert not up(x).data.requires_grad
    assert bool((up(x) == up(x)).all())
    buffer = io.BytesIO()
    torch.save(up(x).detach(), buffer)
    assert type(copy.deepcopy(up(x).detach())) is torch.Tensor
    return m.conv(y) + m.conv(z)


def hooked(m, x):
    y = up(x)
    if y.requires_grad:
        y.register_hook(lambda gradient: None if gradient is None else 2 * gradient)
    return m.conv(y)


def retained(m, x):
    y = up(x)
    if y.requires_grad:
        y.retain_grad()
    m.kept = y
    return m.conv(y)


CLOSE = {
    "autograd.Function": lambda m, x: m.conv(Swish.apply(up(x))),
    "autograd.Function, the same tensor": lambda m, x: m.conv(Same.apply(up(x))),
    "autograd.Function, made inside": lambda m, x: m.conv(Inside.apply(x)),
    "questions": questions,
    "values": values,
    "register_hook": hooked,
    "retain_grad": retained,
    "TorchScript": lambda m, x: m.conv(scripted(up(x))),
    "einsum": lambda m, x: torch.einsum("nchw,oc->nohw", up(x), m.conv.weight[:, :, 0, 0]),
    "unsqueeze in place": lambda m, x: m.conv(up(x).unsqueeze_(0).squeeze_(0).transpose_(2, 3)),
    "no gradients inside": lambda m, x: (lambda y: m.conv(y) + x.mean() * F.silu(y).mean())(detached(x)),
    "joined without gradients": lambda m, x: m.wide(joined(up(x), 2 * up(x))) + x.mean(),
    "an optional argument": lambda m, x: m.conv(input=F.interpolate(input=x, scale_factor=2)),
    "lists": lambda m, x: torch.stack([up(x), up(x)]).sum(0) + torch.cat([up(x), up(x)], 1).mean(),
    "layer norm": lambda m, x: m.conv(F.layer_norm(up(x), (2 * x.shape[2], 2 * x.shape[3]))),
}


@torch.no_grad()
def joined(*tensors):
    return torch.cat(tensors, 1)


@torch.no_grad()
def detached(x):
    return up(x)


def scripted(x):
    if not hasattr(scripted, "function"):
        scripted.function = torch.jit.CompilationUnit("def f(x):\n  return torch.relu(x) * 2\n").f
    return scripted.function(x)


# Architectures --------------------------------------------------------------------------------------------------------
class ResBlock(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(2, inputs), nn.GroupNorm(2, outputs)
        self.conv1, self.conv2 = conv(inputs, outputs), conv(outputs, outputs)
        self.shortcut = conv(inputs, outputs, 1)

    def forward(self, x):
        y = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return y + self.shortcut(x)


def vae_decoder():
    class Upsample(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.conv = conv(channels, channels)

        def forward(self, x):
            dtype = x.dtype
            x = F.interpolate(x.float() if dtype == torch.bfloat16 else x, scale_factor=2.0, mode="nearest")
            return self.conv(x.to(dtype))

    return nn.Sequential(
        conv(4, 8), ResBlock(8, 8), Upsample(8), ResBlock(8, 6), Upsample(6), nn.GroupNorm(2, 6), nn.SiLU(), conv(6, 3)
    )


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.down1, self.down2 = conv(3, 4), conv(4, 6, stride=2), conv(6, 8, stride=2)
        self.up1 = nn.Sequential(conv(8 + 6, 6, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.up2 = nn.Sequential(conv(6 + 4, 4, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.drop, self.leave = nn.Dropout(0.3), nn.ConvTranspose2d(4, 2, 2, stride=2)

    def forward(self, x):
        a = F.relu(self.enter(x))
        b = F.relu(self.down1(a))
        x = self.down2(b)
        x = self.up1(torch.cat([F.interpolate(x, size=b.shape[2:], mode="nearest"), b], 1))
        x = self.up2(torch.cat([self.drop(F.interpolate(x, size=a.shape[2:], mode="nearest")), a], 1))
        return self.leave(x)


def gan_generator():
    return nn.Sequential(
        nn.ConvTranspose2d(8, 6, 4), nn.BatchNorm2d(6), nn.ReLU(True),
        nn.ConvTranspose2d(6, 4, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(4), nn.LeakyReLU(0.2, True),
        nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1), nn.Conv2d(4, 3, 3), nn.Tanh(),
    )  # fmt: skip


class Vocoder(nn.Module):
    def __init__(self):
        super().__init__()
        weight_norm = parametrizations.weight_norm
        self.ups = nn.ModuleList(
            [weight_norm(nn.ConvTranspose1d(6, 4, 8, 4, 2)), weight_norm(nn.ConvTranspose1d(4, 4, 4, 2, 1))]
        )
        self.mid = nn.ModuleList([weight_norm(nn.Conv1d(4, 4, 3, padding=3, dilation=3)) for _ in self.ups])
        self.leave = nn.Conv1d(4, 1, 7, padding=3)

    def forward(self, x):
        for upsample, block in zip(self.ups, self.mid, strict=True):
            x = upsample(F.leaky_relu(x, 0.1))
            x = x + block(F.leaky_relu(x, 0.1))
        return torch.tanh(self.leave(F.leaky_relu(x)))
