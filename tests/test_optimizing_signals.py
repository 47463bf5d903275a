"""Convolutions of signals, whose channels `optimize` keeps together in inference: results and strides stay the same."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from halfstride.optimizing import optimize
from test_optimizing import Model, check, everything_pays, randomised, results  # noqa: F401


def conv1d(inputs=4, outputs=4, kernel=3, **options):
    options.setdefault("padding", kernel // 2)
    return nn.Conv1d(inputs, outputs, kernel, **options)


def signal(channels=4, length=9, batch=2):
    return torch.randn(batch, channels, length)


def residual(m, x):
    for _ in range(2):
        x = x + m.b(F.leaky_relu(m.a(F.leaky_relu(x, 0.1)), 0.1))
    return torch.tanh(x)


def summed_in_place(m, x):
    y, z = m.a(x), m.b(x)
    y += z
    y /= 2
    return m.c(y) + 1, y


def seen_through_a_view(m, x):
    y = m.a(x)
    flat = y.view(len(x), -1)
    flat += 1
    return m.b(y), flat


def changed_afterwards(m, x):
    y = m.a(x)
    z = F.relu(y)
    y.zero_()
    return m.b(z) + y


def looked_at(m, x):
    y = m.a(x)
    assert y.is_contiguous()
    assert y.stride() == (y[0].numel(), y.shape[2], 1)
    return m.b(y.as_strided((2, 4, 3), y.stride()))


CHAINS = {
    "residual": residual,
    "summed in place": summed_in_place,
    "seen through a view": seen_through_a_view,
    "changed afterwards": changed_afterwards,
    "looked at": looked_at,
    "one after another": lambda m, x: m.b(m.a(x)),
    "channels last already": lambda m, x: m.b(m.a(x.transpose(1, 2).contiguous().transpose(1, 2))),
    "a part of another": lambda m, x: m.b(m.a(x[:, :, 1::2])),
    "strided, dilated, in groups": lambda m, x: m.c(
        F.conv1d(m.a(x), m.a.weight[:, :2], m.a.bias, (2,), [3], dilation=2, groups=2)
    ),
    "same": lambda m, x: F.conv1d(m.a(x), m.a.weight, padding="same", dilation=2),
    "valid": lambda m, x: F.conv1d(m.a(x), m.a.weight, None, 1, "valid"),
    "transposed": lambda m, x: m.a(F.conv_transpose1d(m.b(x), m.a.weight, m.a.bias, 2, 1, 1, dilation=2)),
    "transposed, in groups": lambda m, x: F.conv_transpose1d(m.b(x), m.a.weight[:, :2], stride=(2,), groups=2),
    "joined": lambda m, x: F.conv1d(torch.cat([m.a(x), x, m.b(x)], 1), m.a.weight.repeat(1, 3, 1)),
    "joined along the signal": lambda m, x: m.b(torch.cat([m.a(x), x], 2)),
    "padded": lambda m, x: m.b(F.pad(m.a(x), (2, 1))) + m.b(F.pad(m.a(x), (2, 1), mode="reflect")),
    "padded with ones": lambda m, x: m.b(F.pad(m.a(x), (2, 1), value=1.0)),
    "upsampled in between": lambda m, x: m.b(F.interpolate(m.a(x), scale_factor=2)),
    "joined with something upsampled": lambda m, x: F.conv1d(
        torch.cat([m.a(x), F.interpolate(x[:, :, ::3], size=x.shape[2])], 1), m.a.weight.repeat(1, 2, 1)
    ),
    "normalised": lambda m, x: m.b(F.group_norm(m.a(x), 2)) + m.b(F.instance_norm(m.a(x))),
    "slopes of channels": lambda m, x: m.b(F.prelu(m.a(x), m.a.bias)),
    "transposed axes": lambda m, x: (m.a(x).transpose(1, 2) @ m.b(x)).flatten(),
    "no batch": lambda m, x: torch.stack([m.a(one) for one in x]),
    "cast": lambda m, x: m.b(m.a(x.float().to(x.dtype)).double().to(x.dtype)),
    "of nothing": lambda m, x: m.b(m.a(x))[:, :0].contiguous(),
    "a list of all": lambda m, x: [m.a(x), {"b": m.b(m.a(x))}],
}


@pytest.mark.parametrize("run", CHAINS.values(), ids=CHAINS)
def test_chains(run):
    model = randomised(Model(run, a=conv1d(), b=conv1d(kernel=5), c=conv1d(outputs=2)))
    length = 12 if run is CHAINS["joined with something upsampled"] else 9
    others = [] if run is looked_at else [[signal(length=15, batch=1)]]
    _, report = check(model, signal(length=length), finds=None, others=others)
    assert [row.became for row in report.rows if "conv1d" in row.was.split()][-1:] == ["channels last"] * (
        run is not CHAINS["no batch"]
    )


def test_it_is_used_in_inference_only_and_only_where_channels_lie_together():
    """Told by the order in memory in which a convolution sees its input."""
    orders = []

    def conv2d(input, *arguments, real=F.conv2d):
        orders.append(input.stride(1))
        return real(input, *arguments)

    model = nn.Sequential(conv1d(), nn.ReLU(inplace=True), conv1d())
    x = signal()
    with torch.no_grad():
        optimize(model, x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "conv2d", conv2d)
        results(model, [x])
        assert not orders
        with torch.inference_mode():
            model(x)
    assert orders == [1, 1]


def test_an_error_is_worded_as_ever():
    model = nn.Sequential(conv1d(), conv1d())
    with torch.no_grad():
        optimize(model, signal())
    with torch.no_grad(), pytest.raises(RuntimeError, match="Given groups=1, weight of size .4, 4, 3., expected"):
        model(signal(channels=3))


def test_a_part_that_is_called_by_itself_is_fast_too():
    model = nn.Sequential(conv1d(), nn.Upsample(scale_factor=2), conv1d())
    with torch.no_grad():
        _, report = optimize(model, signal())
    assert [row.became for row in report.rows] == ["resize-convolution (folded)", "channels last"]
    expected = model(signal())
    report.undo()
    assert not any("forward" in vars(module) for module in model.modules())
    assert expected.shape == (2, 4, 18)
