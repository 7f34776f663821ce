"""Strategies of the fuzz suite: hostile values, and mutations of trees and bytes."""

from __future__ import annotations

import copy
import gzip
import json
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FACTOR = float(os.environ.get("CTRBENCH_FUZZ_FACTOR", "1"))
"""Multiplies the number of cases."""
TEXTS = (
    "", " ", ",", ".", "-", "=", "[", "]", "a[b", "a[b=c]", "all", "default", "é", "\x1b[31mred", "[/bold]",
    "[bold]x[/bold]",
    "a\nb", "a\r\nb", "a\tb", "../up", "/", "~nosuch/x", "x" * 240, "x" * 5000, "nan", "inf", "-inf", "-1",
    "0", "1e400",
    "9" * 30, "9" * 5000, "1_000", "٣", "%s", "{x}", "$(id)", "\u202eabc", "🦆", "__class__", "__label__",
    "row", "x.py", "x.toml",
    "no such\x00name", "\ufeffx", "true", "null", "1-2-3", "1,2,2", "3-1", "\u2028", "\x85", "\x9b31m",
    "<b>", "\\input{x}", "`|*_#",
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 2, 3, 7, 255, 10_001, 2**31 - 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30, -(10**30),
    0.0, -0.0, 0.5, 1.5, 1e-320, 1e308, math.nan, math.inf, -math.inf,
)  # fmt: skip
INSERTED = (
    b"\x00", b"\xff", b"\xc3", b"\n", b"\r", b"\r\n", b",", b'"', b"''", b"{", b"[" * 3000, b"\xef\xbb\xbf",
    b"\xed\xa0\x80", b"\x1b[2J",
    b"9" * 400, b"nan", b"-", b" ", b"\t", b"|", b"\\u0000", b"NULL", b"#",
)  # fmt: skip
texts = st.sampled_from(TEXTS) | st.text(max_size=8)
numbers = st.sampled_from(NUMBERS) | st.integers(-300, 300)
leaves = st.one_of(texts, numbers, st.booleans(), st.none())
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def cases(number: int) -> settings:
    """Return the settings of a test with that number of cases, the same ones in every run."""
    return settings(
        max_examples=max(1, round(number * FACTOR)), derandomize=True, database=None, deadline=None, print_blob=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def arguments() -> st.SearchStrategy[str]:
    """Texts that a shell can pass: no null character, maybe bytes that are no UTF-8."""
    odd = st.sampled_from(("caf\udce9", "\udcff.toml", "--", "-x", "--help", "@x"))
    return (texts | odd | numbers.map(str)).map(lambda text: text.replace("\x00", ""))


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401  # a tree of JSON
    """Yield every container of a tree with each of its keys."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        yield from _places(tree[key])


@st.composite
def mutated_trees(draw: st.DrawFn, original: Any, most: int = 2) -> Any:  # noqa: ANN401  # a tree of JSON
    """Change keys, values, types or the structure of a tree."""
    tree = copy.deepcopy(original)
    for _ in range(draw(st.integers(1, most))):
        places = list(_places(tree))
        if not places:
            break
        container, key = draw(st.sampled_from(places))
        _mutate(draw, container, key)
    return tree


def _mutate(draw: st.DrawFn, container: Any, key: Any) -> None:  # noqa: ANN401  # a tree of JSON
    operation = draw(
        st.sampled_from(("replace", "replace", "delete", "rename", "repeat", "wrap", "number", "append"))
    )
    value = container[key]
    if operation == "delete":
        del container[key]
    elif operation == "rename" and isinstance(container, dict):
        container[draw(texts)] = container.pop(key)
    elif operation == "repeat" and isinstance(container, list):
        container.insert(key, copy.deepcopy(value))
    elif operation == "wrap":
        container[key] = draw(st.sampled_from(([value], {"x": value}, str(value), [])))
    elif operation == "number" and isinstance(value, int | float):
        container[key] = draw(numbers)
    elif operation == "append" and isinstance(value, str):
        container[key] = value + draw(texts)
    else:
        container[key] = draw(trees)


@st.composite
def mutated_bytes(draw: st.DrawFn, original: bytes) -> bytes:
    """Flip, cut, repeat or insert bytes, or encode the whole in another way."""
    operation = draw(
        st.sampled_from(("flip", "cut", "delete", "insert", "repeat", "swap", "overwrite", "encode"))
    )
    if operation == "encode":
        return draw(st.sampled_from(encodings(original)))
    content = bytearray(original)
    start = draw(st.integers(0, len(content) - 1))
    end = min(len(content), start + draw(st.sampled_from((1, 2, 4, 20, 200))))
    if operation == "flip":
        content[start] ^= 1 << draw(st.integers(0, 7))
    elif operation == "cut":
        del content[start:]
    elif operation == "delete":
        del content[start:end]
    elif operation == "repeat":
        content[start:start] = content[start:end]
    elif operation == "swap":
        old, new = draw(st.permutations((44, 10, 34, 58, 32, 124)))[:2]
        content = content.replace(bytes([old]), bytes([new]))
    else:
        content[start : end if operation == "overwrite" else start] = draw(st.sampled_from(INSERTED))
    return bytes(content)


def encodings(original: bytes) -> Sequence[bytes]:
    """Return whole contents in other forms: empty, compressed, in another encoding, with other line ends."""
    text = original.decode("utf-8", "replace")
    return (
        b"", b"\n", b"\x00" * 100, b"[" * 20_000, b"{" * 20_000, b"null", b"[]", b"{}", b"9" * 10_000,
        gzip.compress(original),
        gzip.compress(original)[:-9], text.encode("utf-16"), text.encode("utf-8-sig"),
        original + b"\xff", original + original, original.replace(b"\n", b"\r"), original.replace(b"\n", b"\r\n"),
        original.rstrip(), b"\n" + original, original.split(b"\n")[0],
    )  # fmt: skip


def to_toml(tree: dict[str, Any]) -> str:
    """Return a tree as TOML with inline tables; what TOML has no form for, such as None, is left out."""
    return "".join(
        f"{json.dumps(str(key))} = {_toml(value)}\n" for key, value in tree.items() if value is not None
    )


def _toml(value: Any) -> str:  # noqa: ANN401  # a tree of TOML
    if isinstance(value, dict):
        pairs = (f"{json.dumps(str(key))} = {_toml(item)}" for key, item in value.items() if item is not None)
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(item) for item in value if item is not None)}]"
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else json.dumps(value)
