"""Frame metrics against closed forms and independent implementations."""

import json
import subprocess
import sys

import numpy as np
import pytest

from pvtok.errors import UsageError
from pvtok.metrics import FrameMetrics, FrameMetricsResult, psnr_per_frame
from pvtok.metrics.frame import MS_SSIM_MIN_SIDE, PSNR_CAP_DB


def clip(frames: int = 4, height: int = 48, width: int = 56, seed: int = 0) -> np.ndarray:
    """Smooth moving frames with all channels different, uint8 `[T, H, W, 3]`."""
    rng = np.random.default_rng(seed)
    t, y, x, c = np.ogrid[:frames, :height, :width, :3]
    wave = np.sin(x / 7.0 + t / 3.0 + c) * np.cos(y / 5.0 - c) + 0.3 * np.sin(x * y / 90.0)
    return np.clip(128 + 80 * wave + rng.normal(0, 4, wave.shape), 0, 255).astype(np.uint8)


def noisy(frames: np.ndarray, sigma: float, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, frames.shape)
    return np.clip(frames + noise, 0, 255).round().astype(np.uint8)


def measured(
    a: np.ndarray, b: np.ndarray, chunk: int | None = None, **options: bool
) -> FrameMetricsResult:
    metrics = FrameMetrics(**options)
    for start in range(0, len(a), chunk or len(a)):
        metrics.update(a[start : start + (chunk or len(a))], b[start : start + (chunk or len(a))])
    return metrics.result()


@pytest.mark.parametrize("offset", [1, 10, 255])
def test_psnr_of_a_constant_offset_has_a_closed_form(offset: int) -> None:
    a = np.zeros((3, 16, 20, 3), np.uint8)
    result = measured(a, a + np.uint8(offset), ssim=False, ms_ssim=False)
    expected = 20 * np.log10(255 / offset)
    assert result.psnr == pytest.approx(expected, abs=1e-12)
    assert result.psnr_of_mse == pytest.approx(expected, abs=1e-12)


def test_psnr_is_exact_at_both_ends_of_the_range() -> None:
    """Differences of +255 and -255 wrap in narrow integers; neither may."""
    a = np.zeros((1, 4, 4, 3), np.uint8)
    a[:, :2] = 255
    assert psnr_per_frame(a, 255 - a)[0] == 0.0


def test_mean_of_psnrs_and_psnr_of_mean_error_differ_as_they_should() -> None:
    a = np.zeros((2, 8, 8, 3), np.uint8)
    b = a.copy()
    b[0] += 1
    b[1] += 50
    result = measured(a, b, ssim=False, ms_ssim=False)
    assert result.psnr_per_frame == pytest.approx(
        [20 * np.log10(255), 20 * np.log10(255 / 50)], abs=1e-9
    )
    assert result.psnr == pytest.approx(np.mean(result.psnr_per_frame))
    assert result.psnr_of_mse == pytest.approx(10 * np.log10(255**2 / ((1 + 2500) / 2)))
    assert result.psnr_of_mse < result.psnr


def test_equal_frames() -> None:
    a = clip(3, 176, 180)
    assert np.isinf(psnr_per_frame(a, a)).all()
    result = measured(a, a)
    assert result.psnr == result.psnr_of_mse == PSNR_CAP_DB
    assert result.equal_frames == 3
    assert result.ssim == pytest.approx(1.0, abs=1e-6)
    assert result.ms_ssim == pytest.approx(1.0, abs=1e-6)
    assert result.reasons == {}


def test_one_equal_frame_counts_as_the_cap() -> None:
    a = np.zeros((2, 12, 12, 3), np.uint8)
    b = a.copy()
    b[1] = 255
    result = measured(a, b, ms_ssim=False)
    assert result.psnr_per_frame == [PSNR_CAP_DB, 0.0]
    assert result.equal_frames == 1


def test_json_is_strict_and_names_the_protocol() -> None:
    a = clip()
    text = json.dumps(measured(a, a).to_json(), allow_nan=False)
    row = json.loads(text)
    assert row["psnr"] == PSNR_CAP_DB
    assert row["ms_ssim"] is None
    assert f"at least {MS_SSIM_MIN_SIDE} pixels" in row["ms_ssim_reason"]
    assert "peak 255" in row["protocol"]
    assert "Gaussian window 11x11" in row["protocol"]
    assert "MS-SSIM" not in row["protocol"]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_chunks_do_not_change_results(chunk: int) -> None:
    a = clip(7, 180, 176)
    b = noisy(a, 12)
    whole, cut = measured(a, b), measured(a, b, chunk)
    assert cut.psnr_per_frame == whole.psnr_per_frame
    assert cut.psnr_of_mse == whole.psnr_of_mse
    assert cut.ssim_per_frame == pytest.approx(whole.ssim_per_frame, abs=1e-6)
    assert cut.ms_ssim == pytest.approx(whole.ms_ssim, abs=1e-6)


def test_batches_inside_a_chunk_do_not_change_results(monkeypatch: pytest.MonkeyPatch) -> None:
    a = clip(5)
    b = noisy(a, 9)
    whole = measured(a, b)
    monkeypatch.setattr("pvtok.metrics.frame._BATCH_PIXELS", 2 * 48 * 56)
    assert measured(a, b).ssim_per_frame == pytest.approx(whole.ssim_per_frame, abs=1e-6)


@pytest.mark.parametrize("sigma", [2, 10, 40])
def test_ssim_agrees_with_a_direct_computation(sigma: float) -> None:
    """The definition, window by window, in double precision."""
    a = clip(1, 21, 24)
    b = noisy(a, sigma)
    tap = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(tap, tap) / tap.sum() ** 2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for y in range(21 - 10):
        for x in range(24 - 10):
            for c in range(3):
                p = a[0, y : y + 11, x : x + 11, c].astype(float)
                q = b[0, y : y + 11, x : x + 11, c].astype(float)
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                cov = (window * (p - mp) * (q - mq)).sum()
                values.append(
                    (2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2))
                )
    assert measured(a, b).ssim == pytest.approx(np.mean(values), abs=2e-5)


@pytest.mark.parametrize("sigma", [3, 25])
def test_psnr_and_ssim_agree_with_scikit_image(sigma: float) -> None:
    skimage = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")
    a = clip(3, 64, 50)
    b = noisy(a, sigma)
    result = measured(a, b)
    for i in range(3):
        assert result.psnr_per_frame[i] == pytest.approx(
            skimage.peak_signal_noise_ratio(a[i], b[i], data_range=255), abs=1e-9
        )
        expected = skimage.structural_similarity(
            a[i],
            b[i],
            channel_axis=-1,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert result.ssim_per_frame is not None
        assert result.ssim_per_frame[i] == pytest.approx(expected, abs=2e-5)


def test_ms_ssim_agrees_with_pytorch_msssim() -> None:
    """The two differ in pooling and in the borders of the coarsest scale, so only roughly."""
    other = pytest.importorskip("pytorch_msssim", reason="pytorch-msssim is not installed")
    torch = pytest.importorskip("torch")
    a = clip(2, 256, 256)
    b = noisy(a, 20)
    x, y = (torch.from_numpy(v).permute(0, 3, 1, 2).float() for v in (a, b))
    expected = other.ms_ssim(x, y, data_range=255, size_average=False).mean().item()
    assert measured(a, b).ms_ssim == pytest.approx(expected, abs=2e-3)


def test_ms_ssim_falls_with_noise_and_forgives_it_more_than_ssim() -> None:
    a = clip(2, 176, 176)
    mild, strong = measured(a, noisy(a, 5)), measured(a, noisy(a, 40))
    assert mild.ms_ssim is not None
    assert mild.ssim is not None
    assert strong.ms_ssim is not None
    assert 1 > mild.ms_ssim > strong.ms_ssim > 0
    assert mild.ms_ssim > mild.ssim  # coarse scales average the noise away


def test_ms_ssim_starts_at_the_size_it_says() -> None:
    side = MS_SSIM_MIN_SIDE
    a = clip(1, side, side)
    assert measured(a, a).ms_ssim is not None
    small = measured(a[:, : side - 1], a[:, : side - 1])
    assert small.ms_ssim is None
    assert small.ssim is not None


def test_tiny_frames_have_a_psnr_only() -> None:
    a = clip(2, 10, 64)
    result = measured(a, noisy(a, 3))
    assert result.psnr > 30
    assert result.ssim is None
    assert result.ssim_per_frame is None
    assert "the shorter one is 10" in result.reasons["ssim"]


def test_without_the_extra_values_are_null_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = measured(clip(), clip())
    assert result.ssim is None
    assert result.ms_ssim is None
    assert "pvtok[eval]" in result.reasons["ssim"]
    assert result.psnr == PSNR_CAP_DB


def test_what_was_not_asked_for_says_so() -> None:
    result = measured(clip(), clip(), ssim=False, ms_ssim=False)
    assert result.reasons == {"ssim": "not asked for", "ms_ssim": "not asked for"}


def test_wrong_inputs_are_refused_with_their_shapes() -> None:
    a = clip()
    with pytest.raises(UsageError, match=r"\(4, 48, 56, 3\) and reconstruction \(3, 48, 56, 3\)"):
        FrameMetrics().update(a, a[:3])
    with pytest.raises(UsageError, match="float64"):
        FrameMetrics().update(a, a / 255.0)
    with pytest.raises(UsageError, match="no pixels"):
        FrameMetrics().update(a[:, :0], a[:, :0])
    with pytest.raises(UsageError, match="no frames"):
        FrameMetrics().result()
    metrics = FrameMetrics(ssim=False, ms_ssim=False)
    metrics.update(a, a)
    with pytest.raises(UsageError, match="56x40 frames after 56x48"):
        metrics.update(a[:, :40], a[:, :40])


def test_an_empty_chunk_changes_nothing() -> None:
    a = clip()
    metrics = FrameMetrics()
    metrics.update(a[:0], a[:0])
    metrics.update(a, a)
    assert metrics.result().frames == 4


def test_importing_the_metrics_imports_no_torch() -> None:
    code = "import sys, pvtok.metrics; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
