"""Data files made to break or to trick: refused by name, without running anything.

What tables of numbers can be, and their ordinary mistakes, is in `tests/data`.
"""

import json
import pickle
import struct

import pytest

from pyro_jarzynski import load_table
from pyro_jarzynski.errors import DataError
from pyro_jarzynski.runtime.model_source import load_arguments

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
        ('{"y": [99999999999999999999]}', "'y' as a rectangular list of numbers"),
        ('{"y": [null, 1.0]}', "'y' as a rectangular list of numbers"),
        ('{"y": ["1.0"]}', "'y' as a rectangular list of numbers"),
        ('{"y": [[1.0], [1.0, 2.0]]}', "'y' as a rectangular list of numbers"),
        ('{"y": [{"__reduce__": 1}]}', "'y' as a rectangular list of numbers"),
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


def test_arguments_that_are_sound(write):
    content = {"y": [1.0, 2.5], "n": [1, 2], "scale": 1e-300, "name": "NaN", "none": None}
    found = load_arguments(write("data.json", json.dumps(content)))
    assert found["y"].tolist() == [1.0, 2.5]
    assert not found["n"].is_floating_point()
    assert (found["scale"], found["name"], found["none"]) == (1e-300, "NaN", None)
