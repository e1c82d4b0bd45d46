"""The KV layout: areas do not overlap, are whole words and follow the contract."""

import itertools

import pytest

from tokenloom.hw.kv.kv_layout import KvLayout


@pytest.mark.parametrize(
    (
        "columns", "port_bits", "page_tokens", "head_size", "kv_heads", "layers",
        "blocks_per_beat", "code_bits",
    ),
    [
        (16, 512, 64, 64, 3, 2, 1, 8),
        (4, 256, 32, 8, 4, 3, 1, 8),
        (32, 512, 64, 96, 1, 2, 2, 8),
        (6, 256, 96, 40, 2, 1, 1, 8),
        (16, 512, 64, 64, 3, 2, 1, 4),
        (6, 256, 96, 42, 2, 1, 1, 4),
    ],
)  # fmt: skip
def test_bytes_are_distinct(
    columns, port_bits, page_tokens, head_size, kv_heads, layers, blocks_per_beat, code_bits
):
    layout = KvLayout(
        columns=columns,
        port_bits=port_bits,
        page_tokens=page_tokens,
        head_size=head_size,
        kv_heads=kv_heads,
        layers=layers,
        blocks_per_beat=blocks_per_beat,
        code_bits=code_bits,
    )
    word = port_bits // 8
    for name in ("k_offset", "v_offset", "head_stride", "layer_stride", "page_stride"):
        assert getattr(layout, name) % word == 0, name
    seen = set()
    for page, layer, head in itertools.product(range(2), range(layers), range(kv_heads)):
        where = {"page": page, "layer": layer, "head": head}
        low = layout.head_address(**where)
        for token in range(page_tokens):
            found = []
            for block in range(layout.dim_blocks):
                found.append(layout.k_shift(**where, token=token, block=block))
                found.append(layout.v_shift(**where, token=token, block=block))
            for dim in range(head_size):
                found.append(layout.k_code(**where, token=token, dim=dim))
                found.append(layout.v_code(**where, token=token, dim=dim))
            for channel, address in found:
                assert 0 <= channel < columns
                assert low <= address < low + layout.head_stride
            seen.update(found)
    codes = head_size * code_bits // 8
    expected = 2 * layers * kv_heads * page_tokens * 2 * (layout.dim_blocks + codes)
    assert len(seen) == expected


def test_small_example():
    layout = KvLayout(
        columns=16, port_bits=512, page_tokens=64, head_size=64, kv_heads=3, layers=30
    )
    assert (layout.dim_blocks, layout.channel_tokens, layout.channel_dims) == (2, 4, 4)
    assert (layout.exponent_bytes, layout.k_bytes, layout.v_bytes) == (64, 256, 256)
    where = {"page": 1, "layer": 2, "head": 1, "token": 18}
    base = layout.page_stride + 2 * layout.layer_stride + layout.head_stride
    assert layout.k_shift(**where, block=1) == (2, base + 4 + 1)
    assert layout.v_shift(**where, block=1) == (2, base + 4 + 3)
    assert layout.k_code(**where, dim=33) == (2, base + 64 + 64 + 33)
    assert layout.v_code(**where, dim=33) == (1, base + 64 + 256 + 2 * 64 + 18)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"port_bits": 128}, "port_bits"),
        ({"page_tokens": 48}, "page_tokens"),
        ({"columns": 0}, "columns"),
        ({"columns": 24}, "page_tokens"),
        ({"code_bits": 5}, "code_bits"),
        ({"code_bits": 4, "head_size": 63}, "head_size"),
    ],
)
def test_refusals(change, message):
    good = {
        "columns": 16,
        "port_bits": 512,
        "page_tokens": 64,
        "head_size": 64,
        "kv_heads": 3,
        "layers": 2,
    }
    with pytest.raises(ValueError, match=message):
        KvLayout(**{**good, **change})
