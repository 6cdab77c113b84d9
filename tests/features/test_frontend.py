"""The front ends against golden values, paddleaudio, transformers, the original's arrays, and each other."""

import functools
import time

import numpy as np
import paddle
import pytest
from paddletag.data import audio
from paddletag.features import frontend
from paddletag.features.frontend_layer import LogMel
from paddletag.features.mel_banks import bank_parts
from paddletag.runtime import UserError

GOLDEN = {  # frames x mels, mean, std, [100, 10], [500, mels / 2], [last, 3]: computed outside this project
    "panns": ((1001, 64), -32.2864, 10.2284, -20.9411, -33.0207, -37.1382),
    "mn": ((1000, 128), -0.140792, 0.752722, -1.27810, -0.12915, -0.29752),
    "ast": ((1024, 128), -0.183978, 0.433642, -0.94438, -0.11317, 0.46703),  # padded to 1024 frames
}
FRONT_ENDS = pytest.mark.parametrize("front_end", [frontend.PANNS, frontend.MN, frontend.AST], ids=lambda f: f.name)
CLIPS = ("1-100032-A-0", "1-17150-A-12", "5-181766-A-10", "1-19898-A-41")


@functools.cache
def golden_signal(rate):
    """A chirp with noise of a linear congruential generator: 10 s."""
    n = np.arange(10 * rate)
    t = n / rate
    state, noise = 1, np.empty(len(n))
    for i in range(len(n)):
        state = (1664525 * state + 1013904223) % 2**32
        noise[i] = state / 2**32 - 0.5
    return (0.5 * np.sin(2 * np.pi * (100 * t + 345 * t**2)) + 0.02 * noise).astype(np.float32)


def layer(front_end, wave):
    return LogMel(front_end)(paddle.to_tensor(wave[None])).numpy()[0]


def exact(front_end, wave):
    """The definition in float64, by numpy's FFT."""
    wave = wave.astype(np.float64)
    if front_end.framing == "kaldi":
        wave = wave - wave.mean()
        frames = np.stack([wave[i : i + 400] for i in range(0, len(wave) - 399, 160)])
        frames -= frames.mean(axis=1, keepdims=True)
        frames[:, 1:] -= 0.97 * frames[:, :-1].copy()
        frames[:, 0] *= 0.03
    else:
        if front_end.pre_emphasis:
            wave = wave[1:] - front_end.pre_emphasis * wave[:-1]
        wave = np.pad(wave, front_end.n_fft // 2, mode="reflect")
        starts = range(0, len(wave) - front_end.n_fft + 1, front_end.hop_length)
        frames = np.stack([wave[i : i + front_end.n_fft] for i in starts])
    spectrum = np.fft.rfft(frames * front_end.window, front_end.n_fft)
    mel = np.abs(spectrum) ** 2 @ front_end.mel_bank.astype(np.float64)
    if front_end.log == "natural":
        log_mel = np.log(mel + front_end.floor)
    elif front_end.log == "floored":
        log_mel = np.log(np.maximum(mel, front_end.floor))
    else:
        log_mel = 10 * np.log10(np.maximum(mel, front_end.floor))
    return (log_mel - front_end.mean) / front_end.scale


@FRONT_ENDS
@pytest.mark.parametrize("engine", [frontend.FrontEnd.log_mel, layer], ids=["numpy", "layer"])
def test_golden_values(front_end, engine):
    shape, *values = GOLDEN[front_end.name]
    y = engine(front_end, golden_signal(front_end.sample_rate))
    if front_end.name == "ast":
        assert y.shape == (998, 128)
        y = np.pad(y, ((0, 26), (0, 0)), constant_values=4.2677393 / (2 * 4.5689974))
    assert y.shape == shape and y.dtype == np.float32
    measured = [y.mean(), y.std(), y[100, 10], y[500, shape[1] // 2], y[-1, 3]]
    # as many digits as the table has; AST's [100, 10] lies beside the chirp, where float32 errs in the fifth
    np.testing.assert_allclose(measured, values, atol={"panns": 1.01e-4, "mn": 1.01e-5, "ast": 4e-5}[front_end.name])


@FRONT_ENDS
def test_engines_agree(front_end):
    """1e-4 for MN and AST, 1e-3 dB for PANNs; and each with the definition."""
    signal = golden_signal(front_end.sample_rate)
    tolerance = 1e-3 if front_end.log == "db" else 1e-4
    y, z, truth = front_end.log_mel(signal), layer(front_end, signal), exact(front_end, signal)
    assert np.abs(y - z).max() < tolerance
    assert np.abs(y - truth).max() < tolerance
    assert np.abs(z - truth).max() < tolerance


def test_panns_equals_paddleaudio(shared):
    """paddleaudio's own LogMelSpectrogram: 1e-3 dB on the golden signal, 0.1 dB on real clips near the floor."""
    features = pytest.importorskip("paddleaudio.features")
    settings = frontend.PANNS
    reference = features.LogMelSpectrogram(
        sr=settings.sample_rate, n_fft=settings.n_fft, hop_length=settings.hop_length, win_length=settings.win_length,
        window="hann", n_mels=settings.n_mels, f_min=settings.f_min, f_max=settings.f_max, amin=settings.floor,
        top_db=None, power=2.0, ref_value=1.0,
    )  # fmt: skip

    def difference(wave):
        theirs = reference(paddle.to_tensor(wave[None])).numpy()[0].T
        return max(np.abs(settings.log_mel(wave) - theirs).max(), np.abs(layer(settings, wave) - theirs).max())

    assert difference(golden_signal(32000)) < 1e-3
    for name in CLIPS:
        folder = shared("data/esc10/audio")
        assert difference(audio.load(folder / f"{name}.ogg", 32000)) < 0.1


@pytest.mark.parametrize("settings", [(32000, 1024, 64, 50.0, 14000.0), (44100, 2048, 128, 0.0, 22050.0)])
def test_slaney_bank_equals_paddleaudio(settings):
    functional = pytest.importorskip("paddleaudio.functional")
    rate, n_fft, n_mels, f_min, f_max = settings
    ours = frontend.PANNS.replace(
        sample_rate=rate, n_fft=n_fft, win_length=n_fft, n_mels=n_mels, f_min=f_min, f_max=f_max
    ).mel_bank
    theirs = functional.compute_fbank_matrix(rate, n_fft, n_mels, f_min, f_max, norm="slaney", dtype="float64")
    np.testing.assert_allclose(ours, theirs.numpy().T, atol=1e-8)


def test_kaldi_bank_equals_paddleaudio():
    kaldi = pytest.importorskip("paddleaudio.compliance.kaldi")
    bank, _ = kaldi._get_mel_banks(128, 1024, 32000.0, 0.0, 15000.0, 100.0, -500.0, 1.0)
    np.testing.assert_allclose(frontend.MN.mel_bank[:-1], bank.numpy().T, atol=2e-4)  # theirs is in float32
    assert not frontend.MN.mel_bank[-1].any()
    bank, _ = kaldi._get_mel_banks(128, 512, 16000.0, 20.0, 8000.0, 100.0, -500.0, 1.0)
    np.testing.assert_allclose(frontend.AST.mel_bank[:-1], bank.numpy().T, atol=2e-4)
    assert not frontend.AST.mel_bank[-1].any()


def test_ast_equals_paddleaudio(shared):
    """paddleaudio's copy of Kaldi's fbank: to 3e-4, because its bank's narrow triangles are computed in float32."""
    kaldi = pytest.importorskip("paddleaudio.compliance.kaldi")
    settings = frontend.AST

    def difference(wave):
        theirs = kaldi.fbank(
            paddle.to_tensor(wave[None].astype(np.float64)), n_mels=128, sr=16000, window_type="hann", high_freq=8000.0
        ).numpy()
        theirs = (np.maximum(theirs, np.log(settings.floor)) - settings.mean) / settings.scale  # its floor is 1e-7
        return np.abs(settings.log_mel(wave) - theirs).max()

    assert difference(golden_signal(16000)) < 3e-4
    for name in CLIPS:
        assert difference(audio.load(shared("data/esc10/audio") / f"{name}.ogg", 16000)) < 3e-4


def test_ast_equals_transformers(shared):
    """transformers' ASTFeatureExtractor, which pads to 1024 frames as well."""
    pytest.importorskip("torch")
    extractor = pytest.importorskip("transformers").ASTFeatureExtractor()

    def difference(wave):
        ours, theirs = frontend.AST.log_mel(wave), extractor(wave, sampling_rate=16000)["input_values"][0]
        assert theirs.shape == (1024, 128)
        return np.abs(ours - theirs[: len(ours)]).max()

    assert difference(golden_signal(16000)) < 1e-4
    for name in CLIPS:
        assert difference(audio.load(shared("data/esc10/audio") / f"{name}.ogg", 16000)) < 1e-4


def test_log_mel_of_the_original(reference):
    """What EfficientAT's PyTorch code computes."""
    for clip, arrays in reference.items():
        wave = audio.load(clip, 32000)
        for ours in (frontend.MN.log_mel(wave), layer(frontend.MN, wave)):
            assert len(ours) == 500 and np.abs(ours[::25] - arrays["log_mel"]).max() < 1e-4


@FRONT_ENDS
@pytest.mark.parametrize("samples", [400, 559, 560, 1026, 9600, 32000, 32001, 32319, 32320])
def test_number_of_frames(front_end, samples):
    wave = np.random.default_rng(0).standard_normal(max(samples, front_end.min_samples)).astype(np.float32)
    assert len(front_end.log_mel(wave)) == front_end.frames(len(wave)) == len(layer(front_end, wave))


def test_constant_offset():
    """Each frame of AST loses its own mean, so that an offset of the waveform changes nothing."""
    wave = golden_signal(16000)[:16000]
    expected = frontend.AST.log_mel(wave)
    assert np.abs(frontend.AST.log_mel(wave + np.float32(0.25)) - expected).max() < 1e-3
    assert np.abs(layer(frontend.AST, wave + np.float32(0.25)) - expected).max() < 1e-3


@FRONT_ENDS
def test_silence_and_compress(front_end):
    silence = front_end.log_mel(np.zeros(32000, np.float32))
    assert np.isfinite(silence).all() and np.ptp(silence) == 0
    power = np.random.default_rng(0).uniform(1e-3, 10, (7, 5)).astype(np.float32)
    np.testing.assert_allclose(front_end.expand(front_end.compress(power.copy())), power, rtol=1e-4)


def test_settings():
    with pytest.raises(UserError, match="300 .*1024"):
        frontend.MN.log_mel(np.zeros(300, np.float32))
    with pytest.raises(UserError, match="f_max"):
        frontend.MN.replace(sample_rate=16000)  # a bank up to 15 kHz does not fit 16 kHz audio
    with pytest.raises(UserError, match="framing .*whole"):
        frontend.AST.replace(framing="whole")
    for nonsense in ({"scale": 0.0}, {"scale": float("inf")}, {"hop_length": 100000}, {"n_mels": 1000}, {"floor": 0}):
        with pytest.raises(UserError, match=f"front end mn: .*{next(iter(nonsense))}"):
            frontend.MN.replace(**nonsense)
    with pytest.raises(UserError, match=r"features\.front_end\.mels: "):
        frontend.MN.replace(mels=64)
    with pytest.raises(UserError, match=r"features\.front_end\.hop_length .*160\.5"):
        frontend.MN.replace(hop_length=160.5)
    assert frontend.MN.replace(floor="1e-4", f_min=20).floor == 1e-4  # as YAML reads them
    assert frontend.from_dict(frontend.MN.to_dict()) == frontend.MN
    other = frontend.MN.replace(f_max=14e3)
    assert len({frontend.MN.folder(5), frontend.MN.folder(10), frontend.PANNS.folder(5), other.folder(5)}) == 4


def test_faster_than_paddle_signal():
    """At least 2.5 times as fast as extraction with paddle.signal.stft, on one core, in the same run."""
    settings = frontend.MN
    wave = np.random.default_rng(0).standard_normal(160000).astype(np.float32)
    window, bank = paddle.to_tensor(settings.window.astype("float32")), paddle.to_tensor(settings.mel_bank)

    def by_paddle():
        emphasised = paddle.to_tensor(wave[None, 1:] - np.float32(0.97) * wave[None, :-1])
        spectrum = paddle.signal.stft(emphasised, settings.n_fft, settings.hop_length, window=window)
        mel = paddle.matmul((spectrum.abs() ** 2).transpose([0, 2, 1]), bank)
        return ((paddle.log(mel + settings.floor) - settings.mean) / settings.scale).numpy()[0]

    def seconds(function):
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    np.testing.assert_allclose(by_paddle(), settings.log_mel(wave), atol=1e-3)
    # In turn, so that whatever else the machine does slows both; the fastest of each is what it can do.
    times = [(seconds(lambda: settings.log_mel(wave)), seconds(by_paddle)) for _ in range(20)]
    ours, theirs = np.min(times, axis=0)
    print(f"numpy {1e3 * ours:.1f} ms, paddle.signal.stft {1e3 * theirs:.1f} ms")
    assert theirs > 2.5 * ours


@pytest.mark.parametrize("front_end", [frontend.MN, frontend.PANNS, frontend.AST], ids=["mn", "panns", "ast"])
def test_products_are_too_small_for_several_threads(front_end):
    """OpenBLAS starts threads for more than 2^18 multiplications: here they cost more than they bring."""
    parts = bank_parts(front_end.mel_bank, frontend.BAND)
    assert max(frontend.BLOCK * bank.size for _, _, bank in parts) <= 2**18
    whole = np.zeros_like(front_end.mel_bank)
    for bins, mels, bank in parts:
        whole[bins, mels] = bank
    np.testing.assert_array_equal(whole, front_end.mel_bank)
