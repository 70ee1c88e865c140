"""A pretended CUDA device, so that a machine without a GPU can test that code moves its tensors.

    with pretended_cuda():
        model.fit(images, device="cuda")

How it works. Every tensor is a CPU tensor and computes as one. That a tensor "lies on the GPU" is a mark on its
storage, so views, in-place operations, modules, optimisers, autograd and deep copies need no help. Four things make
the mark count:

- `_Placement` sees every operation of the dispatcher, those of backward passes too. It marks what is computed from
  marked tensors or created with device="cuda", and raises PyTorch's own RuntimeError where a GPU's tensors would meet a
  CPU's. What CUDA allows is allowed: copies, CPU tensors without dimensions, CPU indices of GPU tensors.
- `_Calls` knows which function of PyTorch runs: what that creates for itself lies where its arguments do.
- Tensor.device, is_cuda, to, cpu, cuda, numpy ... are replaced by ones that know the mark.
- torch.cuda says that there is a device, and how many.

Processes that load images may not touch the device, as forked processes may not use CUDA; batches are pinned in a
thread; torch.save writes where a storage lay, and torch.load without map_location finds no GPU on a machine without.

Where it stops. Numbers are the CPU's: neither a GPU's rounding, nor its kernels, speed, memory or asynchrony. Random
numbers come from the CPU's generator, so that a training gives what it gives on the CPU; own_random=True gives the
device a generator of its own, as a real one has. What an autograd.Function of our own, or a hook of a module, creates
in a backward pass is taken to lie on the GPU; hooks of tensors are seen. Sparse tensors are the CPU's alone.
That CUDA also refuses CPU tensors without dimensions is known of a few operations, those of _TAKES_NO_SCALARS.
torch.Generator("cuda"), streams, events and graphs are not pretended. Autocast is the CPU's, whose lists of operations
differ a little. Kernels of notebooks are other processes, in which nothing is pretended.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from types import SimpleNamespace
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CPU = torch.device("cpu")
NAME = "pretended GPU"
MEMORY = 80 << 30  # bytes
_MARK = "pretended_device"  # the attribute of a storage

_aten = torch.ops.aten
_COPIES = {_aten.copy_, _aten._foreach_copy_, _aten._has_compatible_shallow_copy_type}
_TAKES_CPU_INDICES = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_}
# Elsewhere, a CPU tensor without dimensions may meet a GPU's tensors.
_TAKES_NO_SCALARS = {
    _aten.stack,
    _aten.cat,
    _aten.index_select,
    _aten.gather,
    _aten.embedding,
    _aten.nll_loss_forward,
    _aten.searchsorted,
    _aten.equal,
}

_real_device = torch._C.TensorBase.device.__get__
_real_to = torch._C.TensorBase.to
_real_type = torch._C.TensorBase.type
_real_numpy = torch._C.TensorBase.numpy
_real_register_hook = torch.Tensor.register_hook
_real_tensor, _real_as_tensor = torch.tensor, torch.as_tensor
_real_array = torch.Tensor.__array__
_real_clone_storage = torch.UntypedStorage.clone
_RealAutocast = torch.autocast


def place(tensor: torch.Tensor) -> torch.device:
    """Where a tensor is taken to lie."""
    with torch._C.DisableTorchFunction():
        real = _real_device(tensor)
        if tensor.layout is not torch.strided:  # without a storage that could be marked
            return real
        return getattr(tensor.untyped_storage(), _MARK, real) if real.type == "cpu" else real


def _mark(tensor: torch.Tensor, where: torch.device) -> torch.Tensor:
    """Say of a tensor with a storage of its own where it lies; returns it."""
    storage = tensor.untyped_storage()
    if where.type == "cuda":
        setattr(storage, _MARK, where)
    elif hasattr(storage, _MARK):
        delattr(storage, _MARK)
    return tensor


def _full(device) -> torch.device:
    """A device with its number: "cuda" is the first one."""
    device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    if device.type != "cuda":
        return device
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise RuntimeError("CUDA error: invalid device ordinal")
    return torch.device("cuda", device.index or 0)


class _Move(torch.autograd.Function):
    """A copy of a tensor on another device; its gradient goes the way back."""

    @staticmethod
    def forward(context, tensor: torch.Tensor, where: torch.device) -> torch.Tensor:
        context.came_from = place(tensor)
        _check_process(where)
        return _mark(tensor.clone(), where)

    @staticmethod
    def backward(context, gradient: torch.Tensor):
        return _mark(gradient.clone(), context.came_from), None


# What takes the place of Tensor's own.


def _to(self, *arguments, **options) -> torch.Tensor:
    if "other" in options or (arguments and isinstance(arguments[0], torch.Tensor)):
        other = options.pop("other", None) if "other" in options else arguments[0]
        return _to(self, place(other), other.dtype, *arguments[1:], **options)
    again = options.pop("copy", False)
    where, dtype, _, layout = torch._C._nn._parse_to(*arguments, **options)
    how = {"copy": again} | ({} if dtype is None else {"dtype": dtype})
    how |= {} if layout is None else {"memory_format": layout}
    if where is None or _real_device(self).type != "cpu" or where.type == "meta":
        return _real_to(self, **how) if where is None else _real_to(self, where, **how)
    if _full(where) != place(self):
        self = _Move.apply(self, _full(where))
    return _real_to(self, **how)


def _type(self, dtype=None, *arguments, **options):
    """dtype: also by the name of a kind of tensor, as "torch.cuda.FloatTensor", or by that class: it names a device."""
    if dtype is None or isinstance(dtype, torch.dtype):
        return _real_type(self, dtype, *arguments, **options)
    name = dtype if isinstance(dtype, str) else torch.typename(dtype)
    where = torch.device("cuda" if ".cuda." in name else "cpu")
    return _to(_real_type(self, name.replace(".cuda.", ".")), where)


def _numpy(self, *arguments, **options):
    _check_on_cpu(self)
    return _real_numpy(self, *arguments, **options)


def _array(self, *arguments, **options):
    _check_on_cpu(self)
    return _real_array(self, *arguments, **options)


def _check_on_cpu(tensor: torch.Tensor) -> None:
    if place(tensor).type == "cuda":
        raise TypeError(
            f"can't convert {place(tensor)} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host "
            "memory first."
        )


def _pin_memory(self, device=None) -> torch.Tensor:
    if place(self).type == "cuda":
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
    return self.clone()


def _clone_storage(self) -> torch.UntypedStorage:
    """What a deep copy of a tensor does, past the dispatcher."""
    clone = _real_clone_storage(self)
    if hasattr(self, _MARK):
        setattr(clone, _MARK, getattr(self, _MARK))
    return clone


def _made_of_data(make):
    """torch.tensor or torch.as_tensor: made on the CPU, and then moved."""

    def made(data, *arguments, device=None, **options) -> torch.Tensor:
        if device is None and isinstance(data, torch.Tensor):
            device = place(data)
        found = make(data, *arguments, **options) if device is None else make(data, *arguments, device=CPU, **options)
        return found if device is None or torch.device(device).type == "meta" else found.to(device)

    return made


class _Autocast(_RealAutocast):
    def __init__(self, device_type: str, *arguments, **options):
        super().__init__("cpu" if device_type == "cuda" else device_type, *arguments, **options)


_OF_TENSORS = {
    "device": property(lambda self: place(self)),
    "is_cuda": property(lambda self: place(self).type == "cuda"),
    "is_cpu": property(lambda self: place(self).type == "cpu"),
    "get_device": lambda self: -1 if place(self).type == "cpu" else place(self).index,
    "to": _to,
    "cpu": lambda self, memory_format=torch.preserve_format: _to(self, CPU),
    "cuda": lambda self, device=None, non_blocking=False: _to(self, _full("cuda" if device is None else device)),
    "type": _type,
    "type_as": lambda self, other: _to(self, other),
    "numpy": _numpy,
    "__array__": _array,
    "pin_memory": _pin_memory,
}


# What sees every operation.


class _Placement(TorchDispatchMode):
    """Marks and checks the tensors of all operations. generator: of random numbers on the device, the CPU's if None."""

    def __init__(self, generator: torch.Generator | None):
        super().__init__()
        self.generator = generator
        self.call: list = []  # what the function of PyTorch was given that runs now

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        options = options or {}
        given = list(_tensors([*arguments, *options.values()]))
        places = {place(tensor) for tensor in given}
        asked = options.get("device")
        if asked is not None and asked.type == "cuda":
            options = options | {"device": CPU}
            if function.overloadpacket is not _aten._to_copy:
                places.add(_full(asked))
        if not given:  # what PyTorch creates for itself inside of a function lies where the function's tensors do
            places.update(place(tensor) for tensor in _tensors(self.call))
        where = {one for one in places if one.type == "cuda"}
        if not where and (asked is None or asked.type != "cuda"):
            return function(*arguments, **options)
        _check_process(torch.device("cuda"))
        if function.overloadpacket not in _COPIES:
            _check_together(function, arguments, options, given, where)
        target = _full(asked) if asked is not None and asked.type == "cuda" else next(iter(where))
        options = options | ({"pin_memory": False} if options.get("pin_memory") else {})
        if _draws(function):
            options = options | self._random(arguments, options)
        found = function(*arguments, **options)
        known = {tensor.untyped_storage()._cdata for tensor in given}
        for tensor in _tensors([found]):
            if _real_device(tensor).type == "cpu" and tensor.untyped_storage()._cdata not in known:
                _mark(tensor, target)
        return found

    def _random(self, arguments, options) -> dict:
        """The generator of random numbers on the device. Raises RuntimeError for one of the CPU."""
        if any(isinstance(one, torch.Generator) for one in [*arguments, *options.values()]):
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        return {} if self.generator is None else {"generator": self.generator}


class _Calls(TorchFunctionMode):
    """Tells the placement of which tensors PyTorch's functions were called, as code outside of PyTorch calls them.

    It also sees that a tensor like another one is wanted on the CPU: an operation cannot tell that from none wanted.
    """

    def __init__(self, placement: _Placement):
        super().__init__()
        self.placement = placement

    def __torch_function__(self, function, types, arguments=(), options=None):
        options = options or {}
        before, self.placement.call = self.placement.call, [*arguments, *options.values()]
        try:
            found = function(*arguments, **options)
        finally:
            self.placement.call = before
        asked, name = options.get("device"), getattr(function, "__name__", "")
        if asked is not None and (name.endswith("_like") or name.startswith("new_")) and _full(asked) == CPU:
            _mark(found, CPU)
        return found


def _register_hook(placement: _Placement):
    """Tensor.register_hook: a gradient's hook is code outside of PyTorch, though PyTorch's backward pass calls it."""

    def registered(self, hook):
        def called(gradient):
            with _Calls(placement):
                return hook(gradient)

        return _real_register_hook(self, called)

    return registered


def _tensors(values) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


@cache
def _draws(function) -> bool:
    """Whether an operation takes a generator of random numbers."""
    return any(argument.name == "generator" for argument in function._schema.arguments)


@cache
def _written(function) -> list[tuple[int, str]]:
    """Place and name of the arguments that an operation writes into."""
    arguments = enumerate(function._schema.arguments)
    return [(place, one.name) for place, one in arguments if one.alias_info is not None and one.alias_info.is_write]


def _check_together(function, arguments, options, given, where: set[torch.device]) -> None:
    """Raise RuntimeError for tensors that CUDA would not let meet."""
    packet = function.overloadpacket
    if len(where) > 1:
        raise RuntimeError(_sentence(sorted(map(str, where)), function))
    if packet in _TAKES_CPU_INDICES:
        values = [*arguments[2:3], *([options["values"]] if "values" in options else [])]
        must = [arguments[0], *(value for value in values if value.dim())]
    else:
        into = [arguments[at] if at < len(arguments) else options.get(name) for at, name in _written(function)]
        scalars = packet not in _TAKES_NO_SCALARS
        must = [*_tensors(into), *(tensor for tensor in given if tensor.dim() or not scalars)]
    if any(place(tensor).type == "cpu" for tensor in must):
        raise RuntimeError(_sentence([str(next(iter(where))), "cpu"], function))


def _sentence(devices: list[str], function) -> str:
    return (
        f"Expected all tensors to be on the same device, but found at least two devices, {' and '.join(devices)}! "
        f"(when checking arguments of {function})"
    )


_owner: int | None = None  # the process in which a device is pretended


def _check_process(where: torch.device) -> None:
    if where.type == "cuda" and os.getpid() != _owner:
        raise RuntimeError(
            "Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must use the "
            "'spawn' start method"
        )


# What torch.cuda says.


def _about_the_device(count: int, generator: torch.Generator | None) -> dict:
    own = generator or torch.default_generator
    known = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "device_count": lambda: count,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_name": lambda device=None: NAME,
        "get_device_capability": lambda device=None: (9, 0),
        "is_bf16_supported": lambda including_emulation=True: True,
        "is_current_stream_capturing": lambda: False,
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "mem_get_info": lambda device=None: (MEMORY // 2, MEMORY),
        "max_memory_allocated": lambda device=None: 1 << 20,
        "reset_peak_memory_stats": lambda device=None: None,
        # The CPU's generator is seeded by whoever seeds this one.
        "manual_seed": lambda seed: generator and generator.manual_seed(seed),
        "manual_seed_all": lambda seed: generator and generator.manual_seed(seed),
        "get_rng_state": lambda device="cuda": own.get_state(),
        "set_rng_state": lambda state, device="cuda": own.set_state(state),
    }
    accelerator = {
        "is_available": lambda: True,
        "current_accelerator": lambda check_available=False: torch.device("cuda"),
        "device_count": lambda: count,
        "current_device_index": lambda: 0,
        "set_device_index": lambda device: None,
        "current_stream": lambda device=None: SimpleNamespace(is_capturing=lambda: False),
    }
    # torch has had torch.accelerator since 2.6.
    return {torch.cuda: known} | ({torch.accelerator: accelerator} if hasattr(torch, "accelerator") else {})


def _saved_where(storage) -> str | None:
    """What torch.save writes beside a storage that is taken to lie on a device."""
    where = getattr(storage, _MARK, None)
    return None if where is None else str(where)


def _loaded_where(storage, location: str):
    """What torch.load does with a storage for a device: nothing is known of it without a map_location."""
    if not location.startswith("cuda"):
        return None
    setattr(storage, _MARK, _full(location))
    return storage


@contextmanager
def pretended_cuda(count: int = 1, own_random: bool = False) -> Iterator[None]:
    """As if there were `count` CUDA devices. own_random: they draw random numbers of their own."""
    global _owner
    generator = torch.Generator().manual_seed(0) if own_random else None
    packages = torch.serialization._package_registry
    package = (0, _saved_where, _loaded_where)
    with ExitStack() as stack:
        for where, replaced in _about_the_device(count, generator).items():
            for name, value in replaced.items():
                stack.enter_context(mock.patch.object(where, name, value))
        placement = _Placement(generator)
        for name, value in (_OF_TENSORS | {"register_hook": _register_hook(placement)}).items():
            stack.enter_context(mock.patch.object(torch.Tensor, name, value, create=True))
        for name, value in {
            "torch.UntypedStorage.clone": _clone_storage,
            "torch.tensor": _made_of_data(_real_tensor),
            "torch.as_tensor": _made_of_data(_real_as_tensor),
            "torch.autocast": _Autocast,
            "torch.amp.autocast": _Autocast,
        }.items():
            stack.enter_context(mock.patch(name, value, create=True))
        packages.insert(0, package)
        stack.callback(packages.remove, package)
        stack.enter_context(mock.patch(f"{__name__}._owner", os.getpid()))
        stack.enter_context(placement)
        stack.enter_context(_Calls(placement))
        yield


def is_pretended() -> bool:
    """Whether `gpu` has to pretend."""
    return not torch.cuda._is_compiled() or torch._C._cuda_getDeviceCount() == 0


def gpu(**options):
    """The real CUDA device where there is one, else a pretended one: a context for what runs on "cuda"."""
    return pretended_cuda(**options) if is_pretended() else nullcontext()
