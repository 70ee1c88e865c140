"""Prediction by residual networks: a convolution with the batch norm behind it, and sum and ReLU in place.

With fixed statistics a batch norm is a scale and an offset per channel, which go into the weights and the bias of the
convolution before it; the sum and the ReLU behind it write over its result. What comes out is the network's up to
rounding. The convolutions' weights are then held twice, of a ResNet-18 up to layer3 11 MB, of a wide ResNet-50 99 MB.
"""

import operator
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# Networks of these parts alone, of which the ResNets of timm are, are rewritten. None of the parts looks at sizes.
PARTS = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.Identity)

Made = TypeVar("Made")

# Of each network, the state of its weights and what was made of them. Beside the networks, so that neither copies of
# them nor files know of it.
_made: WeakKeyDictionary[nn.Module, tuple[tuple, object]] = WeakKeyDictionary()


class FusedConvolution(nn.Module):
    """A convolution with what follows it.

    norm: the batch norm behind it, or None. relu: whether a ReLU comes last.
    layer(x, other): x float [B, C, h, w]; other: what is added before the ReLU, or None.
    """

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d | None, relu: bool):
        super().__init__()
        self.convolution = convolution if norm is None else fuse_conv_bn_eval(convolution, norm)
        self.relu = relu

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        y = self.convolution(x)
        if other is not None:
            y = y.add_(other) if y.shape == other.shape else y + other
        return y.relu_() if self.relu else y


def fused(net: nn.Module, x: torch.Tensor) -> Callable[[torch.Tensor], list[torch.Tensor] | torch.Tensor]:
    """What gives net(x), x float [B, C, H, W], fastest: net itself, or what was made of its present weights.

    It is net itself where gradients are kept, a graph is recorded, or precision is lower than float32, for networks of
    other PARTS, in training mode or with hooks, and for weights that were made in inference mode, which do not tell
    whether they have changed.
    """
    if torch.is_grad_enabled():
        forget(net)
        return net
    if torch.jit.is_tracing() or torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type):
        return net
    if any(value.is_inference() or value.dtype in (torch.float16, torch.bfloat16) for value in _values(net)):
        return net
    if any(part.training or part._forward_hooks or part._forward_pre_hooks for part in net.modules()):
        return net
    return of_present_weights(net, fuse) or net


def forget(net: nn.Module) -> None:
    """To be called where net is computed with gradients: not every optimiser tells its weights that it changes them."""
    _made.pop(net, None)


def of_present_weights(net: nn.Module, make: Callable[[nn.Module], Made]) -> Made:
    """make(net), which must not refer to net: what it gave before, as long as net's weights are what they were then."""
    if any(value.is_inference() for value in _values(net)):
        return make(net)
    state = make, *((value.data_ptr(), value._version) for value in _values(net))
    known, made = _made.get(net, (None, None))
    if known != state:
        made = make(net)
        _made[net] = state, made
    return made


def _values(net: nn.Module) -> list[torch.Tensor]:
    return [*net.parameters(), *net.buffers()]


def fuse(net: nn.Module) -> nn.Module | None:
    """The network with fused convolutions, of its present weights; None where it is of other PARTS."""
    modules = dict(net.named_modules())
    if not all(type(module) in PARTS for module in modules.values() if not list(module.children())):
        return None
    try:
        graph = fx.Tracer().trace(net)
    except (fx.proxy.TraceError, AttributeError, NameError, RuntimeError, TypeError, ValueError):
        return None  # what it does depends on values or sizes, or its layers are made as it runs
    part = {node: modules[node.target] for node in graph.nodes if node.op == "call_module"}
    if not all(_is_known(node, part.get(node)) for node in graph.nodes):
        return None
    for node in [node for node in part if isinstance(part[node], nn.Identity)]:
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)
    layers = {}
    for node in [node for node in part if isinstance(part[node], nn.Conv2d)]:
        layers[f"fused{len(layers)}"] = _absorb(graph, part, node, f"fused{len(layers)}")
    for node in graph.nodes:
        kept = part.get(node)
        if isinstance(kept, nn.ReLU) and kept.inplace and len(node.args[0].users) > 1:  # the order would count
            return None
        if kept is not None:
            layers[node.target] = kept
    return fx.GraphModule(layers, graph)


def _absorb(graph: fx.Graph, part: dict[fx.Node, nn.Module], first: fx.Node, name: str) -> FusedConvolution:
    """Put one layer of this name in the place of a convolution and what follows it, as far as nothing else asks for it:
    batch norm, sum, ReLU.
    """
    absorbed, norm, other = [first], None, None
    follower = _only_user(first)
    if isinstance(part.get(follower), nn.BatchNorm2d):
        norm = part[follower]
        absorbed.append(follower)
        follower = _only_user(follower)
    if follower is not None and follower.target is operator.add and len(follower.all_input_nodes) == 2:
        (other,) = (node for node in follower.all_input_nodes if node is not absorbed[-1])
        absorbed.append(follower)
        follower = _only_user(follower)
    if relu := follower is not None and (isinstance(part.get(follower), nn.ReLU) or follower.target is F.relu):
        absorbed.append(follower)
    with graph.inserting_after(absorbed[-1]):  # where everything that it needs is known
        layer = graph.call_module(name, first.args if other is None else (*first.args, other))
    absorbed[-1].replace_all_uses_with(layer)
    for node in reversed(absorbed):
        graph.erase_node(node)
    return FusedConvolution(part[first], norm, relu)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_known(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node is one of PARTS, as their classes have it, a sum, a ReLU, or the graph's begin or end."""
    if module is None:
        written_over = node.kwargs.get("inplace") or node.args[1:] == (True,)  # F.relu may be asked to
        return node.op in ("placeholder", "output") or (node.target in (operator.add, F.relu) and not written_over)
    fixed = not isinstance(module, nn.BatchNorm2d) or module.running_mean is not None
    return type(module) in PARTS and fixed and not node.kwargs
