"""Data files made to break or to trick: refused by name, without running anything.

What tables of numbers can be, and their ordinary mistakes, is in `tests/data`.
"""

import json
import pickle
import struct

import pytest
import torch

from pyro_jarzynski import load_table
from pyro_jarzynski.cli.arguments import load_arguments
from pyro_jarzynski.errors import DataError

DEEP = 100_000


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a":' + "[" * DEEP + "]" * DEEP + "}", "not valid JSON.*recursion"),
        ('{"a":' * DEEP + "1" + "}" * DEEP, "not valid JSON.*recursion"),
        ('{"y": [NaN, 1.0]}', "NaN is no number of JSON; leave missing data out"),
        ('{"scale": Infinity}', "Infinity is no number"),
        ('{"scale": -Infinity}', "-Infinity is no number"),
        ('{"y": [1e999]}', "1e999 is too large for a float"),
        ('{"y": [1.0], "y": [2.0]}', "the name 'y' stands there twice"),
        ('{"y": {"z": 1, "z": 2}}', "the name 'z' stands there twice"),
        ('{"y": [' + "9" * 5000 + "]}", "4300 digits"),
        ('{"y": [1e39]}', "'y' that is too large for torch.float32"),
        ('{"y": [1' + "0" * 400 + "]}", "number in 'y' that no float can be"),
        ('{"y": [null, 1.0]}', "has null in 'y'; leave missing data out"),
        ('{"y": [1.0, "1.0"]}', "in 'y', got numbers, text together"),
        ('{"y": [[1.0], [1.0, 2.0]]}', "'y' as a rectangular list of numbers"),
        ('{"a": {"y": [1.0, [2.0]]}}', "'a.y' as a rectangular list of numbers"),
        ('{"y": [{"__reduce__": 1}, 2]}', "in 'y', got numbers, objects together"),
        ("[1, 2]", "must be a JSON object of the model's arguments.*a list"),
        ("", "not valid JSON"),
        (b'{"y": "\xff"}', "not valid JSON.*utf-8"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else None,
)
def test_arguments_in_a_malicious_or_damaged_file(write, text, told):
    with pytest.raises(DataError, match=f"(?s)`--data`.*{told}"):
        load_arguments(write("data.json", text))


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("the pickle was run",)


@pytest.mark.parametrize("name", ["data.json", "data.npy", "data.csv"])
def test_a_pickle_is_never_run(write, name):
    read = load_arguments if name.endswith("json") else load_table
    with pytest.raises(DataError):
        read(write(name, pickle.dumps(Bomb())))


def array(header, body=b"\0" * 64, length=None):
    """Return a file of NumPy's format with a header as it is given."""
    text = header.encode()
    size = struct.pack("<I", len(text) if length is None else length)
    return b"\x93NUMPY\x02\x00" + size + text + body


def described(descr="<f8", shape="(2, 4)"):
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}\n"


def test_an_array_by_its_header(write):
    assert load_table(write("data.npy", array(described()))).shape == (2, 4)


@pytest.mark.parametrize(
    "content",
    [
        array("", b"", length=2**32 - 1),
        array(" " * 200_000),
        array(described(shape="(100000000000, 100)")),
        array(described(shape="(9223372036854775807, 9223372036854775807)")),
        array(described(shape="(1000000000000, 0)")),
        array(described(shape="(True, 4)")),
        array(described(shape="(2, 400)")),
        array(described(descr="|V2147483647", shape="(4,)")),
        array(described(descr="|O", shape="(1,)"), pickle.dumps(Bomb())),
        array("__import__('pytest').fail('the header was run')\n"),
        array("{'descr': " + "(" * 3000 + ")" * 3000 + "}\n"),
    ],
    ids=[
        "header of 4 GB",
        "header of blanks",
        "73 TB",
        "overflow",
        "rows without columns",
        "boolean",
        "cut off",
        "large items",
        "objects",
        "program",
        "nested",
    ],
)
def test_arrays_in_a_malicious_or_damaged_file(write, content):
    with pytest.raises(DataError, match=r"data[.]npy") as caught:
        load_table(write("data.npy", content))
    # NumPy advises to trust the file; this package does not.
    assert "allow_pickle=True" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1," + "9" * 200_000, "field larger than field limit"),
        ("1,\x002\n", "column 2, which is no number"),
        ("1,=cmd|'/c calc'!A1\n", "column 2, which is no number"),
        ('1,"2\n3\n', "column 2, which is no number"),
        ("1,__import__('os')\n", "column 2, which is no number"),
        ("1e999,2\n", "NaN, infinity or numbers too large"),
    ],
    ids=["long", "null", "formula", "open quote", "program", "overflow"],
)
def test_tables_in_a_malicious_or_damaged_file(write, text, told):
    with pytest.raises(DataError, match=told):
        load_table(write("data.csv", text))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        (b"y\n\xff", "Save it in UTF-8"),
        ("y,y\n1,2\n", "name each column once"),
        ("y,\n1,2\n", "name each column once"),
        ("y\n1\n2,3\n", "must have 1 cells in each line; line 3 of"),
        ("y\n1\nNA\n", "column 'y', got 'NA' beside numbers; leave missing data out"),
        ("y,z\n1,2\n,3\n", "column 'y', got '' beside numbers"),
        ("y\n1\nnan\n", "column 'y', got 'nan' beside numbers"),
        ("y\n1\n1_000\n", "column 'y', got '1_000' beside numbers"),
        ("y\n1e39\n", "'y' that is too large for torch.float32"),
    ],
)
def test_tables_of_arguments_that_are_damaged(write, text, told):
    with pytest.raises(DataError, match=f"(?s)`--data`.*{told}"):
        load_arguments(write("data.csv", text))


CONTENT = {
    "y": [1.0, 2.5],
    "n": [1, 2],
    "huge": [2**70, 1e23],
    "seen": [True, False],
    "names": ["a", "b"],
    "nested": {"g": [[0, 1]], "parts": [{"k": [1]}]},
    "empty": [],
    "scale": 1e-300,
    "count": 10**23,
    "name": "NaN",
    "none": None,
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_arguments_that_are_sound(write, encoding):
    arguments = load_arguments(write("data.json", json.dumps(CONTENT).encode(encoding)))
    assert arguments.integers == ("n", "nested.g", "nested.parts.0.k")
    found = arguments.values(["nested.g"])
    for name in ("y", "n", "huge", "empty"):
        assert found[name].dtype == torch.float32
        assert found[name].tolist() == pytest.approx(CONTENT[name])
    assert found["seen"].dtype == torch.bool
    assert found["nested"]["g"].dtype == torch.int64
    assert found["nested"]["g"].tolist() == [[0, 1]]
    assert found["nested"]["parts"][0]["k"].tolist() == [1]
    for name in ("names", "scale", "count", "name", "none"):
        assert found[name] == CONTENT[name]


def test_columns_of_a_table_are_arguments(write):
    text = "y, g,seen,name\r\n1.5,0,true,a\r\n\r\n2,1,FALSE,b c\r\n"
    arguments = load_arguments(write("data.CSV", text.encode("utf-8-sig")))
    assert arguments.integers == ("g",)
    found = arguments.values(["g"])
    assert found["y"].tolist() == [1.5, 2.0]
    assert (found["g"].dtype, found["g"].tolist()) == (torch.int64, [0, 1])
    assert found["seen"].tolist() == [True, False]
    assert found["name"] == ["a", "b c"]
