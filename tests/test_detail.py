"""Detail carried into predicted frames."""

from __future__ import annotations

import numpy as np

from pvtok.detail import carry_detail
from tests.models import small_tokenizer


def test_still_parts_get_their_detail_back_and_moving_parts_do_not() -> None:
    rng = np.random.default_rng(0)
    seen = rng.integers(64, 192, (1, 32, 64, 3), dtype=np.uint8)
    decoded = np.full_like(seen, 128)
    predicted = np.repeat(decoded, 3, axis=0)
    predicted[:, :, 48:] = 220  # much has changed here
    result = carry_detail(predicted, decoded, seen)
    np.testing.assert_array_equal(result[:, :, :40], np.repeat(seen, 3, axis=0)[:, :, :40])
    np.testing.assert_array_equal(result[:, :, 56:], predicted[:, :, 56:])


def test_a_prediction_without_detail_is_the_decoders() -> None:
    tok = small_tokenizer()
    rng = np.random.default_rng(0)
    context = rng.integers(0, 256, (9, 36, 40, 3), dtype=np.uint8)
    plain = tok.predict(context, 8, detail=False)
    _, expected = tok.predict_latents(tok.encode(context), 8)
    np.testing.assert_array_equal(plain, expected[:, :36, :40])
    decoded = tok.decode(tok.encode(context))[8:9, :36, :40]
    with_detail = carry_detail(plain, decoded, context[-1:])
    np.testing.assert_array_equal(tok.predict(context, 8), with_detail)
