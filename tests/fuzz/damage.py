"""Damaged files, as hypothesis strategies: bytes changed anywhere, and right forms with odd values.

The second kind reaches further: a flipped byte in an archive fails its checksum, an odd value in a header
does not.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import re
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st

Damage = Callable[[bytes], st.SearchStrategy[bytes]]

STRANGE: list[Any] = [
    *(None, True, -1, 0, 2**63, 10**400, 1e308, float("nan"), float("inf"), "", "a", "\0", "\ud800"),
    *("\x1b[31m", "x" * 5000, [], [1], {}, {"a": 1}, [[]], {"": []}),
]
"""Values of every type, at the edges of what each reader expects."""
TOKENS = [
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"{",
    b"[" * 3000,
    b"nan",
    b"1e999",
    b"-1",
    b"\n",
    b"\r",
    b"\x1b[2J",
]

place = st.floats(0, 1)


@st.composite
def changed_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """The content cut, with bytes flipped, removed, repeated, or tokens put in; a few of them together."""
    for _ in range(draw(st.integers(1, 4))):
        at = int(draw(place) * len(content))
        length = draw(st.integers(1, 64))
        kind = draw(st.sampled_from(["cut", "flip", "remove", "repeat", "token", "zero", "number"]))
        if kind == "cut":
            content = content[:at]
        elif kind == "flip" and content:
            at = min(at, len(content) - 1)
            content = content[:at] + bytes([content[at] ^ draw(st.integers(1, 255))]) + content[at + 1 :]
        elif kind == "remove":
            content = content[:at] + content[at + length :]
        elif kind == "repeat":
            content = content[:at] + content[at : at + length] * draw(st.integers(2, 9)) + content[at:]
        elif kind == "token":
            content = content[:at] + draw(st.sampled_from(TOKENS)) + content[at:]
        elif kind == "zero":
            content = content[:at] + bytes(length) + content[at + length :]
        elif kind == "number":
            content = content[:at] + draw(st.binary(min_size=1, max_size=12)) + content[at + 12 :]
    return content


@st.composite
def changed_tree(draw: st.DrawFn, tree: Any) -> Any:
    """A nest of tables and lists in which one value is replaced, removed, or nested deeply."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        parent, key, here = None, None, tree
        while isinstance(here, dict | list) and here and (parent is None or draw(st.integers(0, 3))):
            parent, key = (
                here,
                draw(
                    st.sampled_from(sorted(here, key=str) if isinstance(here, dict) else [*range(len(here))])
                ),
            )
            here = parent[key]
        kind = draw(st.sampled_from(["replace", "replace", "remove", "nest", "add"]))
        value = copy.deepcopy(draw(st.sampled_from(STRANGE)))  # later rounds may change it in place
        if kind == "nest":
            value = here
            for _ in range(draw(st.sampled_from([1, 5, 900]))):
                value = [value]
        if parent is None:
            tree = value
        elif kind == "remove":
            del parent[key]
        elif kind == "add" and isinstance(parent, dict):
            parent[draw(st.sampled_from(["", "name", "step", "x" * 300, "\x1b]0;a\x07"]))] = value
        else:
            parent[key] = value
    return tree


@st.composite
def changed_json(draw: st.DrawFn, content: bytes) -> bytes:
    """A JSON file with odd values in its tree, or with other bytes."""
    if draw(st.booleans()):
        return draw(changed_bytes(content))
    return json.dumps(draw(changed_tree(json.loads(content)))).encode()


@st.composite
def changed_lines(draw: st.DrawFn, content: bytes) -> bytes:
    """A JSON Lines file with an odd line, or with other bytes."""
    if draw(st.booleans()):
        return draw(changed_bytes(content))
    lines = content.splitlines()
    number = draw(st.integers(0, len(lines) - 1))
    lines[number] = json.dumps(draw(changed_tree(json.loads(lines[number])))).encode()
    return b"\n".join(lines) + b"\n"


@st.composite
def changed_toml(draw: st.DrawFn, content: bytes) -> bytes:
    """A recipe in which a line's value is an odd one, or with other bytes."""
    if draw(st.booleans()):
        return draw(changed_bytes(content))
    lines = content.decode().splitlines()
    number = draw(st.sampled_from([n for n, line in enumerate(lines) if "=" in line]))
    odd = [
        "[]",
        "{}",
        "-1",
        "nan",
        "1e999",
        '""',
        '"\\u0000"',
        "9" * 400,
        "1979-05-27",
        "[" * 2000,
        "true",
        '"../x"',
    ]
    lines[number] = lines[number].split("=")[0] + "= " + draw(st.sampled_from(odd))
    return "\n".join(lines).encode()


@st.composite
def changed_npz(draw: st.DrawFn, content: bytes) -> bytes:
    """An archive whose arrays have other headers, other names, other compression; or other bytes."""
    if draw(st.booleans()):
        return draw(changed_bytes(content))
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        for member in old.infolist():
            data = old.read(member)
            kind = draw(st.sampled_from(["keep", "shape", "dtype", "bytes", "drop"]))
            if kind == "shape":
                shape = draw(
                    st.sampled_from(
                        [b"(-1,)", b"(10**9,)", b"()", b"(2, 3)", b"(" * 90, b"(9999999999, 9999999999)"]
                    )
                )
                data = re.sub(
                    rb"\([0-9, ]+\), }",
                    lambda found, shape=shape: (shape + b", }").ljust(len(found[0]))[: len(found[0])],
                    data,
                    count=1,
                )
            elif kind == "dtype":
                data = re.sub(
                    rb"'[|<][a-z]\d'",
                    draw(st.sampled_from([b"'|O8'", b"'<f8'", b"'|V1'", b"'<U9'", b"'>i8'"])),
                    data,
                    count=1,
                )
            elif kind == "bytes":
                data = draw(changed_bytes(data))
            if kind != "drop":
                compression = draw(
                    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
                )
                new.writestr(member.filename, data, compression)
    return stream.getvalue()


@st.composite
def changed_tar(draw: st.DrawFn, content: bytes) -> bytes:
    """A tar file in which fields of headers are odd and the checksums right; or other bytes."""
    if draw(st.integers(0, 2)) == 0:
        return draw(changed_bytes(content))
    data = bytearray(content)
    headers = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from(headers))
        field = draw(st.sampled_from([(0, 100), (124, 12), (156, 1), (257, 8), (345, 155), (482, 1)]))
        odd = [
            b"\xff" * 12,
            b"-1",
            b"7" * 11,
            b"\x80" * 12,
            b"x",
            b"L",
            b"S",
            b"g",
            b"1",
            b"\xe9.png",
            b"../../a.png",
            b"",
        ]
        data[at + field[0] : at + sum(field)] = draw(st.sampled_from(odd))[: field[1]].ljust(field[1], b"\0")
        data[at + 148 : at + 156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)


@st.composite
def changed_safetensors(draw: st.DrawFn, content: bytes) -> bytes:
    """A file whose header, a JSON object, has odd values and the right length; or other bytes."""
    if draw(st.booleans()):
        return draw(changed_bytes(content))
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    entry = header["__metadata__"]
    if "jepa_core" in entry and draw(st.booleans()):
        entry["jepa_core"] = json.dumps(draw(changed_tree(json.loads(entry["jepa_core"]))))
    else:
        header = draw(changed_tree(header))
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


@st.composite
def changed_state(draw: st.DrawFn, content: bytes) -> bytes:
    """A file of torch.save in whose tree values are odd; or other bytes."""
    if draw(st.integers(0, 2)) == 0:
        return draw(changed_bytes(content))
    tree = torch.load(io.BytesIO(content), weights_only=True)
    stream = io.BytesIO()
    torch.save(draw(changed_tree(tree)), stream)
    return stream.getvalue()


def manifest(files: dict[str, bytes], step: int, **others: Any) -> bytes:
    """A checkpoint's manifest.json for these contents."""
    written = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
    }
    return json.dumps({**others, "step": step, "files": written}).encode()
