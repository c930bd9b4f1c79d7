"""Files of weights made to harm: to run code, to fill the memory, to never end, to write on the terminal."""
from __future__ import annotations

import io
import json
import math
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

Tensors = dict[str, torch.Tensor]

# What a pickle may be made to call; each leaves the file MARK, or would.
_CALLS = (
    ("os", "system", "touch MARK"),
    ("posix", "system", "touch MARK"),
    ("os", "mkdir", "MARK"),
    ("os", "popen", "touch MARK"),
    ("subprocess", "check_output", ["touch", "MARK"]),
    ("subprocess", "Popen", ["touch", "MARK"]),
    ("builtins", "eval", "open('MARK', 'w')"),
    ("builtins", "exec", "open('MARK', 'w')"),
    ("__builtin__", "eval", "open('MARK', 'w')"),
    ("builtins", "__import__", "antigravity"),
    ("importlib", "import_module", "antigravity"),
    ("runpy", "_run_code", "open('MARK', 'w')"),
    ("pathlib", "Path.touch", "MARK"),
    ("tempfile", "mkdtemp", "MARK"),
    ("shutil", "rmtree", "MARK"),
    ("code", "interact", "MARK"),
    ("timeit", "timeit", "open('MARK', 'w')"),
    ("torch", "load", "MARK"),
    ("torch.jit", "load", "MARK"),
    ("torch.hub", "load_state_dict_from_url", "https://example.com/MARK"),
    ("torch.utils.collect_env", "run", "touch MARK"),
    ("torch._utils", "_import_dotted_name", "os.system"),
    ("numpy", "load", "MARK"),
    ("numpy.testing._private.utils", "runstring", "open('MARK', 'w')"),
    ("yaml", "unsafe_load", "!!python/object/apply:os.mkdir [MARK]"),
    ("webbrowser", "open", "https://example.com/MARK"),
)

# Those that are read: what is odd about them does no harm.
HARMLESS = {
    "type torch.float8_e4m3fn",
    "deep dictionaries, with others beside",
    "zip that leaves",
    "zip twice",
    "twice",
    *(f"patch size {number}" for number in (1, 4, 5, 6, 7, 8, 9)),
}


def files(sound: Tensors, mark: Path) -> dict[str, bytes]:
    """Such files by name; those that run code make the file `mark`. `sound` are the tensors of a whole network."""
    return {
        **{f"{name}.pth": content for name, content in _code(mark).items()},
        **{f"{name}.pth": content for name, content in _memory().items()},
        **{f"{name}.pth": _saved(content) for name, content in _contents(sound).items()},
        **{f"{name}.pth": content for name, content in _archives(sound).items()},
        **{f"{name}.safetensors": content for name, content in _safetensors(sound).items()},
    }


# Pickles, written by hand: torch.save and pickle write none like these.


def _pickled(*parts: bytes) -> bytes:
    return b"".join((b"\x80\x02", *parts, b"."))


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _value(value: object) -> bytes:
    """The opcodes of a value, without the frame of a pickle."""
    return pickle.dumps(value, 2)[2:-1]


def _call(module: str, name: str, *arguments: object) -> bytes:
    return b"".join((_global(module, name), b"(", *map(_value, arguments), b"tR"))


def _as_zip(data: bytes) -> bytes:
    """A pickle in a file as torch.save writes it, with one storage of 16 bytes."""
    return _zipped({"data.pkl": data, "byteorder": b"little", "data/0": bytes(16), "version": b"3\n"})


def _zipped(members: Mapping[str, bytes], **options: Any) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return stream.getvalue()


def _as_legacy(data: bytes) -> bytes:
    """A pickle in a file as torch.save wrote it before 1.6: magic number, version, system, content, storages."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system)]
    return b"".join((*parts, data, pickle.dumps(["0"], 2), struct.pack("<q", 4), bytes(16)))


def _code(mark: Path) -> dict[str, bytes]:
    found = {}
    for module, name, argument in _CALLS:
        text = json.loads(json.dumps(argument).replace("MARK", str(mark)))
        data = _pickled(_call(module, name, text))
        for layout, write in (("zip", _as_zip), ("legacy", _as_legacy), ("bare", bytes)):
            found[f"code {layout} {module}.{name}"] = write(data)
    mkdir, place = b"posix\nmkdir\n", _value(str(mark))
    system = _global("posix", "mkdir")
    odd = {
        "inst": _pickled(b"(", place, b"i", mkdir),
        "obj": _pickled(b"(", system, place, b"o"),
        "newobj": _pickled(system, b"(", place, b"t\x81"),
        "newobj ex": _pickled(system, b"(", place, b"t}\x92"),
        "stack global": _pickled(b"\x8c\x05posix\x8c\x05mkdir\x93(", place, b"tR"),
        "dotted": _pickled(_global("collections", "OrderedDict.__init__.__globals__"), b"(", place, b"tR"),
        "build": _pickled(_global("collections", "OrderedDict"), b")R}", _value("__reduce__"), system, b"sb"),
        "extension": _pickled(b"\x82\x01"),
        "persistent": _pickled(b"(", _value("module"), system, place, b"tQ"),
        "persistent text": b"\x80\x02Pposix.mkdir\n.",
        "rebuild": _pickled(
            _global("torch._tensor", "_rebuild_from_type_v2"), b"(", system, _global("torch", "Tensor"), b"(", place,
            b"t}tR",
        ),
        "setstate": _pickled(_global("torch.nn.parameter", "Parameter"), b")\x81(", system, place, b"tb"),
        "device": _pickled(_call("torch", "device", f"posix.mkdir {mark}")),
    }  # fmt: skip
    return {**found, **{f"code {name}": data for name, data in odd.items()}}


def _memory() -> dict[str, bytes]:
    """Pickles of calls that torch allows: of what size is for the file to say."""
    def storage(name: str = "0", number: int = 4, device: str = "cpu") -> bytes:
        kind = _global("torch", "FloatStorage")
        return b"".join((b"(", _value("storage"), kind, *map(_value, (name, device, number)), b"tQ"))

    def tensor(size: object, stride: object, offset: object = 0) -> bytes:
        arguments = (_value(offset), _value(size), _value(stride), b"\x89", _call("collections", "OrderedDict"))
        return b"".join((_global("torch._utils", "_rebuild_tensor_v2"), b"(", storage(), *arguments, b"tR"))

    named = b"".join((b"}", _value("intro.weight")))
    big = 1 << 31
    nested = b")" + b"".join(b"q%c0(h%c" % (n, n) + b"h%c" % n * 5 + b"t" for n in range(100))
    found = {
        "bytearray": _pickled(_call("builtins", "bytearray", big - 1)),
        "bytearray long": _pickled(_call("builtins", "bytearray", 1 << 45)),
        "bytearray new": _pickled(_global("builtins", "bytearray"), b"(", _value(big - 1), b"t\x81"),
        "tensor": _pickled(_call("torch", "Tensor", 1 << 33)),
        "tensor new": _pickled(_global("torch", "Tensor"), b"(", _value(1 << 33), b"t\x81"),
        "float tensor": _pickled(_call("torch", "FloatTensor", 1 << 33)),
        "half tensor": _pickled(_call("torch", "HalfTensor", 1 << 40)),
        "untyped storage": _pickled(_call("torch.storage", "UntypedStorage", 1 << 35)),
        "untyped storage 2": _pickled(_call("torch", "UntypedStorage", 1 << 35)),
        "typed storage": _pickled(_call("torch.storage", "TypedStorage", 1 << 35)),
        "cuda tensor": _pickled(_call("torch.cuda", "FloatTensor", 1 << 33)),
        "parameter": _pickled(_global("torch.nn.parameter", "Parameter"), b"(", _value(big), b"t\x81"),
        "set": _pickled(b"]", _value("x") * 3, b"."),
        "size": _pickled(_call("torch", "Size", [1 << 62, 1 << 62])),
        "counter": _pickled(_call("collections", "Counter", "a" * 100)),
        "long": _pickled(b"\x8a\xff", bytes(range(255))),
        "long 4": _pickled(b"\x8b\xff\xff\xff\x7f"),
        "unicode": _pickled(b"X\xff\xff\xff\xff"),
        "string": _pickled(b"T\xff\xff\xff\x7f"),
        "marks": _pickled(b"(" * 1_000_000),
        "lists": _pickled(b"]" * 200_000, b"a" * 199_999),
        "dictionaries": _pickled(b"}" + named[1:] + (b"}" + named[1:]) * 100_000 + b"N" + b"s" * 100_000),
        "tuples": _pickled(b")" + b"\x85" * 200_000),
        "tuple as key": _pickled(b"}", b")" + b"\x85" * 200_000, b"Ns"),
        "hash": _pickled(b"}", nested, b"Ns"),
        "print": _pickled(nested),
        "memo": _pickled(b"}", b"r\xff\xff\xff\xff", b"j\xff\xff\xff\xff", b"."),
        "no stack": _pickled(b"a" * 9),
        "larger than its storage": _pickled(named, tensor((1 << 28, 3, 3, 3), (27, 9, 3, 1)), b"s"),
        "beyond 64 bits": _pickled(named, tensor((1 << 62, 1 << 62, 3, 3), (1, 1, 1, 1)), b"s"),
        "expanded": _pickled(named, tensor((1 << 40, 3, 3, 3), (0, 0, 0, 0)), b"s"),
        "negative size": _pickled(named, tensor((-8, 3, 3, 3), (27, 9, 3, 1)), b"s"),
        "negative stride": _pickled(named, tensor((1, 1, 1, 4), (27, 9, 3, -1)), b"s"),
        "negative offset": _pickled(named, tensor((1, 1, 1, 4), (4, 4, 4, 1), -4), b"s"),
        "offset": _pickled(named, tensor((1, 1, 1, 4), (4, 4, 4, 1), 1 << 40), b"s"),
        "rank": _pickled(named, tensor((1,) * 9999, (1,) * 9999), b"s"),
        "words": _pickled(named, tensor(("8", 3), (3, 1)), b"s"),
        "storage claims": _pickled(storage(number=1 << 40)),
        "storage below zero": _pickled(storage(number=-4)),
        "storage elsewhere": _pickled(storage("../../../etc/passwd")),
        "storage of no device": _pickled(storage(device="\x1b[2Jgpu")),
        "meta": _pickled(named, _global("torch._utils", "_rebuild_meta_tensor_no_storage"), b"(",
            _global("torch", "float32"), _value((1 << 40, 3, 3, 3)), _value((27, 9, 3, 1)), b"\x89tR", b"s"),
        "other device": _pickled(
            named, _global("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"), b"(",
            tensor((1 << 28, 3, 3, 3), (0, 0, 0, 0)), _global("torch", "float64"), _value("cpu"), b"\x89tR", b"s",
        ),
        "sparse": _pickled(
            named, _global("torch._utils", "_rebuild_sparse_tensor"), b"(",
            _call("torch.serialization", "_get_layout", "torch.sparse_coo"), b"(", tensor((4, 1), (1, 1)),
            tensor((1,), (1,)), _value((1 << 30, 9, 9, 9)), b"ttR", b"s",
        ),
    }  # fmt: skip
    layouts = (("zip", _as_zip), ("legacy", _as_legacy), ("bare", bytes))
    return {f"{name} {layout}": write(data) for name, data in found.items() for layout, write in layouts}


# Contents that torch.save writes and no network has.


def _contents(sound: Tensors) -> dict[str, Any]:
    def changed(name: str, tensor: Any) -> dict[str, Any]:
        return {**sound, name: tensor}

    ending, ones = sound["ending.weight"], torch.ones(8)
    loop: dict[str, Any] = {}
    loop["again"] = loop
    deep: dict[str, Any] = dict(sound)
    for _ in range(300):
        deep = {"model": deep, "n": 1}
    odd_types = (torch.bool, torch.uint8, torch.int8, torch.int64, torch.complex64, torch.float8_e4m3fn, torch.uint16)
    quantised = torch.quantize_per_tensor(ending, 0.1, 0, torch.qint8)
    names = {
        "blocks": "encoders.0.999999.norm1.weight",
        "blocks below zero": "encoders.0.-1.norm1.weight",
        "blocks in other digits": "encoders.0.٩٩٩٩٩.norm1.weight",
        "middle": "middle_blks.999999.temperature",
        "levels": "downs.40.bias",
        "many levels": "downs.999999.bias",
        "decoders": "decoders.3.999999.norm1.weight",
        "digits": f"encoders.0.{'9' * 5000}.norm1.weight",
        "long name": "a" * 1_000_000,
        "terminal": "\x1b[2J\x1b]0;title\x07\r\b",
        "lines": "one\ntwo\r\nthree",
        "script": "<!--<script>alert(1)</script>",
        "surrogate": "\udcff\ud800",
        "no name": "",
        "dots": "." * 5000,
        "format": "%s%n {0} {self.__class__}",
        "wrappers": "_orig_mod." * 50_000 + "x",
    }
    return {
        **{f"name {name}": changed(text, ones) for name, text in names.items()},
        **{f"type {dtype}": changed("ending.weight", ending.to(dtype)) for dtype in odd_types},
        **{
            f"value {value} {name}": changed(name, torch.full_like(sound[name], value))
            for value in (math.nan, math.inf, -math.inf)
            for name in ("ending.weight", "intro.bias")
        },
        "quantised": changed("ending.weight", quantised),
        "sparse coo": changed("ending.weight", ending.to_sparse()),
        "sparse csr": changed("ending.weight", ending.reshape(3, -1).to_sparse_csr()),
        "on meta": changed("ending.weight", ending.to("meta")),
        "conjugate": changed("ending.weight", ending.to(torch.complex64).conj()),
        "expanded tensor": changed("ending.weight", torch.ones(1).expand(3, 8, 9999, 9999)),
        "wide": changed("intro.weight", torch.ones(1).expand(8 << 40, 3, 3, 3)),
        "channels": changed("intro.weight", torch.ones(1).expand(8, 1 << 40, 3, 3)),
        "no width": changed("intro.weight", torch.ones(0, 3, 3, 3)),
        "no channels": changed("intro.weight", torch.ones(8, 0, 3, 3)),
        "a number": changed("intro.weight", torch.tensor(1.0)),
        "five dimensions": changed("intro.weight", torch.ones(8, 3, 3, 3, 3)),
        "text": changed("intro.weight", "text"),
        "numbers as names": dict(enumerate(sound.values())),
        "bytes as names": {name.encode(): tensor for name, tensor in sound.items()},
        "tuples as names": {(name,): tensor for name, tensor in sound.items()},
        "a loop": {"state_dict": loop},
        "deep dictionaries, with others beside": {**deep, "second": {"params": sound}, "third": {"params": sound}},
        "many dictionaries": {f"model{number}": {"a": ones, "b": {"c": ones}} for number in range(20_000)},
        "many networks": {f"model{number}.{name}": tensor for number in range(200) for name, tensor in sound.items()},
        "many tensors": {**sound, **{f"extra.{number}": ones for number in range(20_000)}},
        "half a network": dict(list(sound.items())[::2]),
        "another network": {"conv1.weight": torch.zeros(64, 3, 7, 7)},
        **{
            f"patch {number}": {"state_dict": sound, "config": {"TRAINING": {"TRAIN_PS": patch}}}
            for number, patch in enumerate((0, -1, 10**9, 1 << 70, -(1 << 70), 10**300))
        },
    }


def _archives(sound: Tensors) -> dict[str, bytes]:
    """Sound weights, and zip files around them that are not."""
    whole = _saved(sound)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    bomb = bytes(1 << 26)
    directory = whole.rindex(b"PK\1\2")
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name in ("storages", "tensors", "pickle"):
            tar.addfile(tarfile.TarInfo(name))
    return {
        "zip compressed": _zipped(members, compression=zipfile.ZIP_DEFLATED),
        "zip bomb": _zipped({**members, "data/bomb": bomb}, compression=zipfile.ZIP_DEFLATED),
        "zip bomb lzma": _zipped({**members, "data.pkl": bomb}, compression=zipfile.ZIP_LZMA),
        "zip without pickle": _zipped({name: data for name, data in members.items() if name != "data.pkl"}),
        "zip without storages": _zipped({name: data for name, data in members.items() if not name.startswith("data/")}),
        "zip with short storages": _zipped(
            {name: data[:1] if name.startswith("data/") else data for name, data in members.items()}
        ),
        "zip of other order": _zipped({**members, "byteorder": b"middle"}),
        "zip of other version": _zipped({**members, "version": b"99999999999999999999"}),
        "zip without version": _zipped({name: data for name, data in members.items() if name != "version"}),
        "zip of a script": _zipped({**members, "constants.pkl": _pickled(b"}"), "code/x.py": b"import os"}),
        "zip that leaves": _zipped({**members, "../../../../tmp/m3snet-was-here": b"x"}),
        "zip in a zip": _zipped({"inner.pth": whole}),
        "zip twice": whole + whole,
        "zip with a cut directory": whole[:directory] + whole[directory + 9 :],
        "zip with a huge directory": whole[: directory + 20] + b"\xff\xff\xff\x7f" * 2 + whole[directory + 28 :],
        "zip end only": b"PK\5\6" + b"\xff" * 18,
        "zip begin only": b"PK\3\4" + b"\xff" * 1000,
        "tar": stream.getvalue(),
        "legacy end": _as_legacy(_pickled(b"}"))[:-20] + struct.pack("<q", 1 << 60),
        "nothing": b"",
        "zeros": bytes(100_000),
        "page": b"<!doctype html><title>404</title>",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 8600000\n",
    }


def _safetensors(sound: Tensors) -> dict[str, bytes]:
    whole = save(sound)
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    data = whole[8 + length :]
    first = header["ending.weight"]

    def written(changes: Mapping[str, Any] | bytes, rest: bytes = data) -> bytes:
        text = changes if isinstance(changes, bytes) else json.dumps({**header, **changes}).encode()
        return struct.pack("<Q", len(text)) + text + rest

    def ending(**changes: Any) -> bytes:
        return written({"ending.weight": {**first, **changes}})

    begin, end = first["data_offsets"]
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    found = {
        "empty": b"",
        "length only": whole[:8],
        "length cut": whole[:5],
        "header cut": whole[: 8 + length // 2],
        "header alone": whole[: 8 + length],
        "data cut": whole[:-1],
        "data added": whole + b"x",
        "header cut short": struct.pack("<Q", length // 2) + whole[8:],
        "not JSON": written(b"no JSON at all"),
        "not UTF-8": written(b'{"\xff\xfe": 1}'),
        "a list": written(b"[]"),
        "deep JSON": written(b"[" * 5_000_000),
        "deep objects": written(b'{"a":' * 1_000_000),
        "long number": written(b'{"a":' + b"9" * 1_000_000 + b"}"),
        "zeros": bytes(1000),
        "twice": written(json.dumps(header).encode()[:-1] + b"," + json.dumps(header).encode()[1:]),
        "offsets turned": ending(data_offsets=[end, begin]),
        "offsets shared": ending(data_offsets=[0, end - begin]),
        "offsets beyond": ending(data_offsets=[1 << 40, (1 << 40) + end - begin]),
        "offsets wrap": ending(data_offsets=[(1 << 64) - 1, end - begin]),
        "offsets below zero": ending(data_offsets=[-1, end - begin - 1]),
        "offsets in words": ending(data_offsets=["0", "9"]),
        "one offset": ending(data_offsets=[0]),
        "shape wraps": ending(shape=[1 << 63, 2]),
        "shape beyond 64 bits": ending(shape=[1 << 70]),
        "shape of zeros": ending(shape=[0, 1 << 62, 1 << 62]),
        "shape below zero": ending(shape=[-3, -8, 3, 3]),
        "shape of many": ending(shape=[1] * 100_000),
        "other shape": ending(shape=[216]),
        "other type": ending(dtype="I32"),
        "type of 4 bits": ending(dtype="F4", shape=[3, 8, 3, 24]),
        "unknown type": ending(dtype="F99"),
        "bool": ending(dtype="BOOL", shape=[3, 8, 3, 12]),
        "metadata is a list": written({"__metadata__": [1]}),
        "metadata is nested": written({"__metadata__": {"a": {"b": {}}}}),
        "metadata is a number": written({"__metadata__": {"patch_size": 64}}),
        "many tensors": written({f"a{n}": empty for n in range(50_000)}),
        "index": written({"encoders.0.999999.norm1.weight": empty}),
        "terminal": written({"\x1b[2J\r\n": empty}),
        "not finite": save({**sound, "ending.bias": torch.full((3,), math.nan)}),
        "pickle": _saved(sound),
        "code": _pickled(_call("os", "mkdir", "MARK")),
    }
    for size in (0, 1, 99, 100_000_001, 1 << 31, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 8, (1 << 64) - 1):
        found[f"header of {size} bytes"] = struct.pack("<Q", size) + whole[8:]
    for number, text in enumerate(("0", "-1", "9" * 9, "9" * 5000, "\x1b[2J", "1e9", "٣٣", "²", "nan", "64\n")):
        found[f"patch size {number}"] = written({"__metadata__": {"patch_size": text}})
    return found


def _saved(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()
