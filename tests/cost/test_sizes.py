import pytest

from nnunet_hypersegnas.cost import SizeError, format_bytes, parse_bytes
from nnunet_hypersegnas.errors import HyperSegNASError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5GB", 5 * 10**9),
        ("300 MB", 3 * 10**8),
        (" 2000KB ", 2 * 10**6),
        ("4.5GiB", int(4.5 * 2**30)),
        ("1mib", 2**20),
        ("3 KiB", 3 * 2**10),
    ],
)
def test_sizes_are_read_with_decimal_and_binary_units(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["5", "-5GB", "0GB", "0.0001KB", "GB", "5XB", "5B", "", "5,5GB", "1e9 B", "5 G B", "9" * 400 + "GB"]
)
def test_anything_else_is_refused_with_the_units_that_are_known(text):
    with pytest.raises(SizeError, match=r"is no memory size.*KB, KiB, MB, MiB, GB, GiB.*as in 5GB") as error:
        parse_bytes(text)
    assert str(error.value).startswith(repr(text)[:60]) and len(str(error.value)) < 250 and "\n" not in str(error.value)
    assert isinstance(error.value, HyperSegNASError)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (4_970_000_000, "4.97 GB"),
        (123_456_789, "123 MB"),
        (12_345_678, "12.3 MB"),
        (999, "999 B"),
        (0, "0 B"),
        (999_999_999, "1.00 GB"),  # not 1000 MB
        (9_999_000_000, "10.0 GB"),
        (99_960_000_000, "100 GB"),
    ],
)
def test_sizes_are_written_with_three_digits(size, text):
    assert format_bytes(size) == text
