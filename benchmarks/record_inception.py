"""Records torchvision's Inception on random weights: tests/data/inception.npz.

Needs torch and torchvision, which the tests do not. The network is torchvision's own,
with the pooling of the FID network put into it.

    python benchmarks/record_inception.py
"""

import pathlib
import sys

import numpy as np
import torch
import torch.nn.functional as F
import torchvision

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.helpers import inception_weights  # noqa: E402

module = torchvision.models.inception


class Pooling:
    """`torch.nn.functional`, whose average is the one of the FID network."""

    inside_last_block = False

    def __getattr__(self, name):
        return getattr(F, name)

    def avg_pool2d(self, x, **options):
        """Without the padding; in the last block the maximum."""
        if self.inside_last_block:
            return F.max_pool2d(x, **options)
        return F.avg_pool2d(x, **options, count_include_pad=False)


def network():
    """Makes torchvision's network with the random weights, for inference."""
    net = torchvision.models.inception_v3(weights=None, init_weights=False)
    net.AuxLogits, net.transform_input = None, False
    state = net.state_dict()
    suffix = ".conv.weight"
    shapes = {
        name.removesuffix(suffix): tuple(array.shape)
        for name, array in state.items()
        if name.endswith(suffix)
    }
    for name, array in inception_weights.random_state(shapes).items():
        state[name] = torch.from_numpy(array)
    net.load_state_dict(state)
    net.fc = torch.nn.Identity()
    return net.eval(), shapes


def outputs(net, x):
    """Computes features, and the mean of every block's output over its pixels."""
    means = {}
    hooks = [
        block.register_forward_hook(
            lambda _, __, y, name=name: means.update({name: y.mean((2, 3)).numpy()})
        )
        for name, block in net.named_children()
        if name.startswith("Mixed")
    ]
    with torch.no_grad():
        means["features"] = net(x).numpy()
    for hook in hooks:
        hook.remove()
    return means


def main():
    """Runs both networks and writes the file."""
    torch.set_num_threads(1)
    net, shapes = network()
    x = torch.from_numpy(inception_weights.images().transpose(0, 3, 1, 2))
    plain = outputs(net, x)["features"]

    module.F = pooling = Pooling()
    last = net.Mixed_7c
    last.register_forward_pre_hook(
        lambda *_: setattr(pooling, "inside_last_block", True)
    )
    fid = outputs(net, x)
    small = torch.from_numpy(inception_weights.small().transpose(0, 3, 1, 2))
    large = F.interpolate(small, (299, 299), mode="bilinear", align_corners=False)
    np.savez_compressed(
        ROOT / "tests" / "data" / "inception.npz",
        **fid,
        torchvision_features=plain,
        resized=large.numpy()[:, :, ::23, ::23].transpose(0, 2, 3, 1),
        shape_names=np.array(list(shapes)),
        shape_values=np.array(list(shapes.values())),
    )
    print({name: array.shape for name, array in fid.items()})


if __name__ == "__main__":
    main()
