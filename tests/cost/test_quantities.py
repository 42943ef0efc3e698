import pytest

from nnunet_hypersegnas.cost import Quantity, SizeError, format_count, parse_count, parse_ms


@pytest.mark.parametrize(
    ("text", "count"), [("5M", 5_000_000), ("1.5 G", 1_500_000_000), ("20000", 20_000), ("2b", 2 * 10**9)]
)
def test_numbers_are_read_with_decimal_units(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["-5M", "0", "M", "5X", "5GB", "", "1e6"])
def test_anything_else_is_refused(text):
    with pytest.raises(SizeError, match="write a positive number"):
        parse_count(text)


def test_times_need_a_unit():
    assert (parse_ms("50ms"), parse_ms("0.2 s"), parse_ms("500us")) == (50, 200, 0.5)
    for text in ("50", "-1ms", "1h", "0s"):
        with pytest.raises(SizeError, match="as in 50ms"):
            parse_ms(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [(12, "12"), (1_240_000, "1.24 M"), (999_999, "1.00 M"), (56_164_159, "56.2 M"), (3.2e12, "3.20 T")],
)
def test_numbers_are_written_with_three_digits(value, text):
    assert format_count(value) == text


def test_every_quantity_reads_and_writes_its_own_unit():
    assert Quantity.MEMORY.format(Quantity.MEMORY.parse("5GB")) == "5.00 GB"
    assert Quantity.PARAMETERS.format(Quantity.PARAMETERS.parse("5M")) == "5.00 M"
    assert Quantity.MULTIPLY_ADDS.format(Quantity.MULTIPLY_ADDS.parse("100G")) == "100 G"
    assert Quantity.LATENCY.format(Quantity.LATENCY.parse("50ms")) == "50 ms"
