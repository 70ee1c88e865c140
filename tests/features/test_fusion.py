"""Fused networks against the networks themselves, and where networks have to stay what they are."""

import copy
import gc
import pickle
import weakref

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import fx, nn

from adlib.features import fusion
from adlib.features.backbones import Backbone
from adlib.features.fusion import fused, of_present_weights

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def lived_in(net: nn.Module) -> nn.Module:
    """The network with other statistics, scales and offsets than those that a batch norm starts with."""
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value, low in ((module.running_mean, -0.2), (module.running_var, 0.5), (module.weight, 0.5)):
                value.data = low + torch.rand(value.shape, generator=generator)
            module.bias.data = torch.rand(module.bias.shape, generator=generator) - 0.5
    return net.eval()


def timm_net(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    return lived_in(timm.create_model(name, features_only=True, out_indices=(1, 2, 3), **options))


def reflecting() -> nn.Module:
    net = timm_net("resnet18")
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
            module.padding_mode = "reflect"
    return net


class Written(nn.Module):
    """A network of two convolutions by a function of theirs."""

    def __init__(self, work, inplace: bool = False):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, padding="same"), nn.Conv2d(3, 8, 5, padding="same", bias=False)
        self.norm, self.relu, self.work = nn.BatchNorm2d(8), nn.ReLU(inplace), work
        self.pool = nn.AvgPool2d(64)
        lived_in(self)

    def forward(self, x):
        return self.work(self, x)


FUSED = {
    "basic blocks": lambda: timm_net("resnet18"),
    "bottlenecks": lambda: timm_net("resnet26"),
    "groups of channels": lambda: timm_net("resnext50_32x4d"),
    "average pooling": lambda: timm_net("resnet26d"),
    "without sums": lambda: timm_net("vgg11_bn"),
    "reflected borders": reflecting,
    "a sum of convolutions": lambda: Written(lambda net, x: net.relu(net.first(x) + net.norm(net.second(x)))),
    "a sum with itself": lambda: Written(lambda net, x: [(y := net.norm(net.first(x))) + y, net.second(x)]),
    "a sum without ReLU": lambda: Written(lambda net, x: net.first(x) + net.second(x)),
    "a ReLU as a function": lambda: Written(lambda net, x: F.relu(net.norm(net.first(x)) + net.second(x))),
    "what comes between is asked for": lambda: Written(lambda net, x: [y := net.first(x), z := net.norm(y), F.relu(z)]),
    "a sum of two sizes": lambda: Written(lambda net, x: [net.first(x) + net.pool(net.second(x))]),
    "the other way round": lambda: Written(lambda net, x: [net.pool(net.first(x)) + net.second(x)]),
    "one layer twice": lambda: Written(lambda net, x: [net.relu(net.first(x)), net.norm(net.first(x))]),
    "a norm of its own": lambda: Written(lambda net, x: net.norm(net.relu(net.first(x)))),
}


@pytest.mark.parametrize("name", FUSED)
@torch.no_grad()
def test_fused_networks_give_the_same_features(name):
    net = FUSED[name]()
    made = fused(net, IMAGES)
    assert isinstance(made, fx.GraphModule)
    assert not [one for one in made.children() if isinstance(one, nn.Conv2d)]  # each is fused
    torch.testing.assert_close(made(IMAGES), net(IMAGES), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_in_a_resnet_nothing_stays_alone():
    made = fused(timm_net("resnet18"), IMAGES)
    layers = [type(module).__name__ for module in made.children()]
    assert layers.count("FusedConvolution") == len(layers) - 1 and "MaxPool2d" in layers
    assert not [node for node in made.graph.nodes if node.op == "call_function"]


PLAIN = {
    "depthwise, with SiLU": lambda: timm_net("efficientnet_b0"),
    "looks at sizes": lambda: timm_net("tf_efficientnet_b0"),
    "squeeze and excitation": lambda: timm_net("seresnet18"),
    "normalised weights": lambda: timm_net("resnetv2_50"),
    "a ReLU that writes over its input": lambda: Written(lambda net, x: F.relu(net.first(x), inplace=True)),
    "a layer of the moment": lambda: Written(lambda net, x: nn.Conv2d(3, 4, 3)(x)),
    "values decide": lambda: Written(lambda net, x: net.first(x) if x.sum() > 0 else net.second(x)),
    "the order counts": lambda: Written(lambda net, x: [(y := net.first(x)), net.relu(y)], inplace=True),
}


@pytest.mark.parametrize("name", PLAIN)
@torch.no_grad()
def test_other_networks_stay_what_they_are(name):
    net = PLAIN[name]()
    assert fused(net, IMAGES) is net


@torch.no_grad()
def test_it_is_the_network_itself_where_more_than_features_is_asked_for():
    net = timm_net("resnet18")
    assert fused(net.bfloat16(), IMAGES.bfloat16()) is net
    net.float()
    with torch.enable_grad():
        assert fused(net, IMAGES) is net
    with torch.autocast("cpu", torch.bfloat16):
        assert fused(net, IMAGES) is net
    hook = net.layer1[0].register_forward_hook(lambda *_: None)
    assert fused(net, IMAGES) is net
    hook.remove()
    net.layer1[0].bn1.train()
    assert fused(net, IMAGES) is net
    net.eval()
    assert fused(net, IMAGES) is not net


@torch.no_grad()
def test_changed_weights_are_seen():
    net = timm_net("resnet18")
    before = fused(net, IMAGES)
    assert fused(net, IMAGES) is before
    net.layer2[0].bn1.running_mean.add_(1)
    torch.testing.assert_close(fused(net, IMAGES)(IMAGES), net(IMAGES), rtol=1e-4, atol=1e-5)
    net.load_state_dict(timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3)).state_dict())
    torch.testing.assert_close(fused(net, IMAGES)(IMAGES), net(IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {"foreach": False}])
def test_training_is_seen_whatever_the_optimiser_tells_of_it(options):
    """Fused ones change weights without counting it."""
    net = Written(lambda net, x: net.relu(net.first(x) + net.second(x)))
    optimiser = torch.optim.Adam(net.parameters(), 0.1, **options)
    for _ in range(2):
        with torch.no_grad():
            torch.testing.assert_close(fused(net, IMAGES)(IMAGES), net(IMAGES), rtol=1e-4, atol=1e-5)
        fused(net, IMAGES)(IMAGES).sum().backward()
        optimiser.step()


@torch.no_grad()
def test_weights_that_do_not_tell_of_changes():
    with torch.inference_mode():
        net = timm_net("resnet18")
        assert fused(net, IMAGES) is net
        assert of_present_weights(net, lambda _: object()) is not of_present_weights(net, lambda _: object())
        backbone = Backbone("resnet18", (1,), "random")
        assert fused(backbone.net, IMAGES) is not backbone.net


@torch.no_grad()
def test_what_was_made_goes_with_the_network():
    net = timm_net("resnet18")
    made = weakref.ref(fused(net, IMAGES))
    assert made() is not None
    del net
    gc.collect()  # the network, and with it the entry;
    gc.collect()  # then what was made, whose graph and module refer to each other
    assert made() is None


@torch.no_grad()
def test_copies_and_files_know_nothing_of_it():
    backbone = Backbone("resnet18", (1, 2), "random")
    names, size = list(backbone.state_dict()), len(pickle.dumps(backbone))
    expected = backbone(IMAGES)
    assert backbone.net in fusion._made
    assert list(backbone.state_dict()) == names and len(pickle.dumps(backbone)) == size
    other = copy.deepcopy(backbone)
    assert other.net not in fusion._made
    torch.testing.assert_close(other(IMAGES), expected, rtol=0, atol=0)


@torch.no_grad()
def test_what_is_no_number_stays_none():
    """Convolutions with a ReLU of their own make 0 of it."""
    net = timm_net("resnet18")
    assert all(stage.isnan().all() for stage in fused(net, IMAGES)(torch.full_like(IMAGES, torch.nan)))


def test_a_backbone_is_fused_and_says_what_the_network_says():
    backbone = Backbone("resnet18", (1, 2, 3), "random")
    lived_in(backbone.net)
    torch.testing.assert_close(backbone(IMAGES), backbone.asked(backbone.net, IMAGES), rtol=1e-4, atol=1e-5)
    assert backbone.net in fusion._made
