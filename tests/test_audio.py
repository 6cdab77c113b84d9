"""Decoding, mixing and resampling, and the files that are refused."""

import numpy as np
import pytest
import scipy.signal
import soundfile
from paddletag import audio
from paddletag.audio import AudioError

RATE = 44100
FORMATS = [("wav", "PCM_16"), ("wav", "FLOAT"), ("flac", "PCM_16"), ("ogg", "VORBIS"), ("mp3", "MPEG_LAYER_III")]
MORE = [("aiff", "PCM_16"), ("au", "PCM_16"), ("w64", "PCM_16"), ("caf", "PCM_16")]


def tones(seconds, rate=RATE, channels=1):
    """A few tones below 3 kHz, other ones in each channel: float64 [N, channels]."""
    time = np.arange(round(seconds * rate)) / rate
    pitches = [(220 * (c + 1), 1310 + 170 * c) for c in range(channels)]
    return np.stack([0.3 * np.sin(2 * np.pi * a * time) + 0.2 * np.sin(2 * np.pi * b * time) for a, b in pitches], 1)


@pytest.fixture
def make(tmp_path):
    """A function that writes a waveform: (name, wave, rate, subtype) -> path."""

    def make(name, wave, rate=RATE, subtype=None):
        soundfile.write(tmp_path / name, wave, rate, subtype)
        return tmp_path / name

    return make


@pytest.mark.parametrize("kind, subtype", FORMATS + MORE)
def test_formats(make, kind, subtype):
    wave = tones(1.5, channels=2)
    path = make(f"a.{kind}", wave, subtype=subtype)
    assert audio.probe(path) == audio.Info(RATE, 2, len(wave)) and audio.probe(path).seconds == 1.5
    found = audio.load(path, RATE)
    assert found.dtype == np.float32 and found.shape == (len(wave),)
    exact = {"PCM_16": 1e-4, "FLOAT": 1e-7}.get(subtype, 0.03)
    assert np.abs(found - wave.mean(1))[2000:-2000].max() < exact


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 192000])
@pytest.mark.parametrize("to_rate", [16000, 32000])
def test_resampling_agrees_with_scipy(make, rate, to_rate):
    wave = tones(1.0, rate)
    found = audio.load(make("a.wav", wave, rate, "FLOAT"), to_rate)
    divisor = np.gcd(rate, to_rate)
    expected = scipy.signal.resample_poly(wave[:, 0], to_rate // divisor, rate // divisor, window=("kaiser", 12.0))
    assert len(found) == len(expected) == to_rate
    inner = slice(to_rate // 20, -to_rate // 20)  # the two pad the ends differently
    assert np.abs(found - expected)[inner].max() < 1e-3


def test_what_lies_above_the_new_nyquist_is_removed(make):
    time = np.arange(RATE) / RATE
    found = audio.load(make("a.wav", 0.5 * np.sin(2 * np.pi * 20000 * time), subtype="FLOAT"), 32000)
    assert np.abs(found[1000:-1000]).max() < 1e-4


def test_mono_is_the_mean_of_the_channels(make):
    wave = tones(0.2, channels=8)
    assert np.allclose(audio.load(make("a.wav", wave, subtype="FLOAT"), RATE), wave.mean(1), atol=1e-6)
    opposite = np.concatenate([wave[:, :1], -wave[:, :1]], 1)
    assert np.abs(audio.load(make("b.wav", opposite, subtype="FLOAT"), RATE)).max() == 0


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_part_of_a_file(make, kind):
    """Pure tones: their MP3 frames borrow bits from frames far before, which a decoder that seeks does not have."""
    path = make(f"a.{kind}", tones(2.0))
    whole = audio.load(path, RATE)
    assert np.array_equal(audio.load(path, RATE, 0.5, 1.25), whole[22050:55125])
    assert np.array_equal(audio.load(path, RATE, 1.5), whole[66150:])
    assert np.array_equal(audio.load(path, RATE, 1.5, 99.0), whole[66150:])  # a segment may end after its clip
    for start, end in ((2.0, None), (3.0, 4.0), (1.0, 1.0), (-1.0, None)):
        with pytest.raises(AudioError, match=rf"a\.{kind}: start"):
            audio.load(path, RATE, start, end)


@pytest.mark.parametrize("samples, rate", [(1, 8000), (1, 44100), (1, 192000), (7, 192000), (400, 8000)])
def test_very_short_clips(make, samples, rate):
    found = audio.load(make("a.wav", np.full(samples, 0.5), rate), 32000)
    assert abs(len(found) - samples * 32000 / rate) <= 1 and np.isfinite(found).all()


def test_pad():
    wave = np.arange(3, dtype=np.float32)
    assert audio.pad(wave, 5).tolist() == [0, 1, 2, 0, 0] and audio.pad(wave, 5).dtype == np.float32
    assert audio.pad(wave, 3) is wave and audio.pad(wave, 2) is wave


@pytest.mark.parametrize("kind, subtype", FORMATS + MORE)
@pytest.mark.parametrize("kept", [0.999, 0.9, 0.5, 0.02])
def test_a_truncated_file_is_refused(make, capfd, kind, subtype, kept):
    path = make(f"a.{kind}", tones(1.5) + 0.01 * np.random.default_rng(0).standard_normal((66150, 1)), subtype=subtype)
    audio.load(path, 32000)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(AudioError, match=rf"a\.{kind}: ") as caught:
        audio.load(path, 32000)
    assert "truncated" in str(caught.value) or "can" in str(caught.value)
    if kept >= 0.5 and kind not in ("flac", "caf"):
        assert "truncated" in str(caught.value)
    assert kept > 0.99 or capfd.readouterr().err == ""  # the MP3 decoder likes to comment


@pytest.mark.parametrize("kind", ["wav", "ogg", "aiff", "au", "w64"])
def test_truncation_shows_in_the_header(make, kind):
    path = make(f"a.{kind}", np.random.default_rng(0).uniform(-0.3, 0.3, RATE))  # in OGG, several pages
    audio.probe(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(AudioError, match=rf"a\.{kind}: truncated"):
        audio.probe(path)


def test_a_recorder_that_was_switched_off_promised_nothing(make):
    path = make("a.wav", tones(0.5))
    content = bytearray(path.read_bytes())
    content[4:8], content[40:44] = b"\x08\0\0\0", bytes(4)  # the sizes are put in when the file is closed
    path.write_bytes(content)
    assert len(audio.load(path, RATE)) == RATE // 2


@pytest.mark.parametrize("total, words", [(0, "does not say how long it is"), (2**36 - 1, r"hours of sound|truncated")])
def test_a_flac_file_that_does_not_know_its_length(make, total, words):
    path = make("a.flac", tones(0.5))
    content = bytearray(path.read_bytes())  # STREAMINFO begins at 8; its 36 bits of total samples at 8 + 13.5
    content[21] = content[21] & 0xF0 | total >> 32
    content[22:26] = (total & 0xFFFFFFFF).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(AudioError, match=words):
        audio.load(path, RATE)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("channels", [1, 2])
def test_samples_that_are_no_sound_are_refused(make, recwarn, bad, channels):
    wave = tones(0.5, channels=channels)
    audio.load(make("good.wav", 3e9 * wave, subtype="FLOAT"), 32000)  # loud, as int32 values would be, but sound
    wave[1234] = [bad, -bad][:channels] if np.isinf(bad) else bad
    with pytest.raises(AudioError, match=r"a\.wav: has samples that are NaN, infinite or beyond"):
        audio.load(make("a.wav", wave, subtype="FLOAT"), 32000)
    assert not recwarn.list


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.wav", None, "no such file"),
        ("a.wav", b"", "is empty"),
        ("a.wav", b"hello, I am a text\n" * 50, "not a sound file"),
        ("a.mp3", b"hello, I am a text\n" * 50, "not a sound file"),
        ("a.MP3", b"\0" * 1000, "not a sound file"),
        ("a.mp3", b"ID3", "not a sound file"),
        ("a.mp3", b"ID3\x04\0\0\0\0\0\x0a" + b"\0" * 1000, "not a sound file"),
        ("a.ogg", b"<html>404 Not Found</html>", "not a sound file"),
        ("a.ogg", b"OggS", "not a sound file"),
        ("a.flac", b"fLaC", "not a sound file"),
        ("a.wav", b"RIFF\0\0\0\0WAVE", "not a sound file"),
    ],
)
def test_what_is_no_sound_file(tmp_path, capfd, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    for read in (audio.probe, lambda path: audio.load(path, 32000)):
        with pytest.raises(AudioError) as caught:
            read(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: {words}") and "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_folder_and_a_file_of_no_samples(make, tmp_path):
    with pytest.raises(AudioError, match="not a file"):
        audio.probe(tmp_path)
    for kind in ("wav", "au", "aiff"):
        with pytest.raises(AudioError, match="has zero samples"):
            audio.probe(make(f"a.{kind}", np.zeros((0, 1))))


def test_an_mp3_with_a_tag_before_it(make):
    path = make("a.mp3", tones(1.0))
    content = path.read_bytes()
    tag = b"ID3\x04\0\0" + bytes([0, 0, 2, 0]) + bytes(256)  # 4 bytes of 7 bits: 2 * 128
    path.write_bytes(tag + content)
    assert len(audio.load(path, RATE)) == RATE
    path.write_bytes(tag + content[: len(content) * 4 // 5])
    with pytest.raises(AudioError, match="truncated"):
        audio.probe(path)
