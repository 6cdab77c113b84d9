"""Decoding, mixing and resampling, and the files that are refused."""

import errno
import io
import os
import re
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
import scipy.signal
import soundfile
import soxr
from conftest import ROOT
from paddletag.data import audio
from paddletag.data import ffmpeg as ffmpeg_module
from paddletag.data.audio import AudioError
from paddletag.data.pcm import PCM
from paddletag.features.padding import pad
from paddletag.reports import video_encoder

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
    assert pad(wave, 5).tolist() == [0, 1, 2, 0, 0] and pad(wave, 5).dtype == np.float32
    assert pad(wave, 3) is wave and pad(wave, 2) is wave


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


@pytest.mark.parametrize("total, words", [(0, r"a\.flac: .*how long"), (2**36 - 1, r"a\.flac: .*(hours|truncated)")])
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
    with pytest.raises(AudioError, match=r"a\.wav: .*NaN"):
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
        with pytest.raises(AudioError, match=rf"a\.{kind}: .*zero samples"):
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


def stream(path, rate=32000):
    with audio.opened(path) as source:
        return list(source.at(rate))


@pytest.mark.parametrize("kind, subtype", FORMATS + MORE)
@pytest.mark.parametrize("rate", [32000, RATE])
def test_a_file_in_parts_is_the_file(make, monkeypatch, kind, subtype, rate):
    monkeypatch.setattr(audio, "BLOCK", 10_007)
    path = make(f"a.{kind}", tones(1.5, channels=2), subtype=subtype)
    parts = stream(path, rate)
    assert len(parts) >= 6
    np.testing.assert_allclose(np.concatenate(parts), audio.load(path, rate), atol=1e-6)


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_bad_files_are_refused_in_parts_as_well(make, monkeypatch, kind):
    monkeypatch.setattr(audio, "BLOCK", 10_007)
    path = make(f"a.{kind}", tones(1.5) + 0.01 * np.random.default_rng(0).standard_normal((66150, 1)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match=rf"a\.{kind}: (truncated|cannot be decoded)"):
        stream(path)
    with pytest.raises(AudioError, match=r"b\.wav: .*NaN"):
        stream(make("b.wav", np.full((20_000, 1), np.nan), subtype="FLOAT"))
    with pytest.raises(AudioError, match=r"none\.mp4: no such file"):
        stream(path.with_name("none.mp4"))


def pipe(data, most=10**9):
    """A `read(n)` like os.read's on a pipe: at most `most` bytes at a time, of what is there."""
    file = io.BytesIO(data)
    return lambda size: file.read(min(size, most))


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("kind", ["WAV", "WAVEX"])
@pytest.mark.parametrize("most", [97, 4096])
@pytest.mark.parametrize("live", [True, False])
def test_a_wav_stream(make, subtype, kind, most, live):
    path = make("a.wav", tones(0.3, channels=3))
    soundfile.write(path, tones(0.3, channels=3), RATE, subtype, format=kind)
    data = path.read_bytes()
    unknown = data[: data.index(b"data") + 4] + b"\xff\xff\xff\xff" + data[data.index(b"data") + 8 :]
    for content in (data, unknown):
        source = audio.piped(pipe(content, most), "pipe", live=live)
        assert source.rate == RATE and source.seconds is None
        parts = list(source.at(RATE))
        assert (len(parts) > 5) == live
        np.testing.assert_allclose(np.concatenate(parts), audio.load(path, RATE), atol=1e-7)


@pytest.mark.parametrize("kind", PCM)
def test_raw_pcm(kind):
    """Two channels of values that every format holds exactly."""
    wave = np.array([[0, 0.5], [-1, 0.25], [0.125, -0.5], [0, 0]], np.float32)
    if kind == "u8":
        data = (wave * 128 + 128).astype(np.uint8).tobytes()
    elif kind[0] == "f":
        data = wave.astype("<" + kind[0] + str(PCM[kind])).tobytes()
    else:
        data = b"".join(int(x * 2 ** (8 * PCM[kind] - 1)).to_bytes(PCM[kind], "little", signed=True)
                        for x in wave.ravel())  # fmt: skip
    for most in (1, 5, 1000):
        parts = audio.piped(pipe(data + b"\0", most), "pipe", 8000, kind, 2).at(8000)  # and half a sample
        assert np.concatenate(list(parts)).tolist() == wave.mean(1).tolist()
    without_header = audio.piped(pipe(data), "pipe", None, kind, 2, default_rate=16000)
    assert without_header.rate == 16000
    assert np.concatenate(list(without_header.at(16000))).tolist() == wave.mean(1).tolist()


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "pipe: .*empty.* --pcm_rate"),
        (b"hello" * 100, "pipe: .*WAV.* --pcm_rate"),
        (b"RIFF\0\0\0\0WAVE", "pipe: .*without sound"),
        (b"RIFF\0\0\0\0WAVEdata\4\0\0\0abcd", "pipe: .*without sound"),
    ],
)
def test_what_is_no_wav_stream(data, words):
    with pytest.raises(AudioError, match=words):
        list(audio.piped(pipe(data), "pipe").at(32000))


def test_wav_streams_that_are_refused(make):
    data = make("a.wav", tones(0.3)).read_bytes()
    with pytest.raises(AudioError, match="pipe: truncated"):
        list(audio.piped(pipe(data[:-100]), "pipe").at(32000))
    with pytest.raises(AudioError, match="pipe: .*zero samples"):
        list(audio.piped(pipe(b""), "pipe", 8000).at(32000))
    with pytest.raises(AudioError, match=r"pipe: .*\(format 7, 8 bits\)"):
        audio.piped(pipe(make("b.wav", tones(0.3), subtype="ULAW").read_bytes()), "pipe")


@pytest.fixture
def fake_ffmpeg(tmp_path, monkeypatch):
    """A program in ffmpeg's place that writes a copy of the WAV file beside the video, or fails."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ffmpeg").write_text(
        f"#!{sys.executable}\nimport sys, pathlib\n"
        "path = pathlib.Path(sys.argv[sys.argv.index('-i') + 1].removeprefix('file:')).with_suffix('.wav')\n"
        "if not path.exists(): print('moov atom not found\\n[x] Error', file=sys.stderr); sys.exit(183)\n"
        "sys.stdout.buffer.write(path.read_bytes())\n"
    )
    (folder / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_video_through_ffmpeg(make, fake_ffmpeg, tmp_path):
    path = make("film.wav", tones(3.0, channels=2))
    film = tmp_path / "film.MP4"
    film.write_bytes(b"pictures")
    np.testing.assert_allclose(np.concatenate(stream(film)), audio.load(path, 32000), atol=1e-6)
    with audio.opened(film) as source:  # no more than its rate: the program must not be waited for
        assert source.rate == RATE
    path.unlink()
    with pytest.raises(AudioError, match=r"film\.MP4: .*\(moov atom not found\)"):
        stream(film)


def test_no_ffmpeg(tmp_path, monkeypatch):
    (tmp_path / "a.mkv").write_bytes(b"pictures")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(AudioError, match=r"a\.mkv: .*imageio-ffmpeg"):
        stream(tmp_path / "a.mkv")


def test_real_video(make, tmp_path):
    """A film with lossless sound, made by ffmpeg; and one without any."""
    program = shutil.which("ffmpeg") or pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    path = make("a.wav", tones(2.0, channels=2))
    picture = [program, "-v", "error", "-f", "lavfi", "-i", "color=size=32x32:duration=2"]
    subprocess.run([*picture, "-i", path, "-c:a", "flac", tmp_path / "a.mkv"], check=True)
    np.testing.assert_allclose(np.concatenate(stream(tmp_path / "a.mkv")), audio.load(path, 32000), atol=1e-6)
    late = ["-itsoffset", "0.5", "-i", path, "-map", "0:v", "-map", "1:a", "-c:a", "flac", tmp_path / "late.mkv"]
    subprocess.run([*picture, *late], check=True)
    heard = np.concatenate(stream(tmp_path / "late.mkv"))  # from the film's beginning on
    np.testing.assert_allclose(heard[:15000], 0, atol=1e-6)
    np.testing.assert_allclose(heard[16100:76000], audio.load(path, 32000)[100:60000], atol=1e-5)
    subprocess.run([*picture, tmp_path / "silent.mkv"], check=True)
    with pytest.raises(AudioError, match=r"silent\.mkv: .*no sound"):
        stream(tmp_path / "silent.mkv")
    (tmp_path / "bad.mp4").write_bytes(b"no film" * 100)
    with pytest.raises(AudioError, match=r"bad\.mp4: ffmpeg"):
        stream(tmp_path / "bad.mp4")


CODECS = {  # of ffmpeg, for a file of each suffix: the sound's, and what else is needed
    ".mp4": "aac", ".m4v": "aac -f mp4", ".mkv": "flac", ".webm": "libopus", ".mov": "pcm_s16le", ".avi": "pcm_s16le",
    ".flv": "aac", ".wmv": "wmav2", ".mpg": "mp2", ".mpeg": "mp2 -f vob", ".ts": "mp2", ".3gp": "aac", ".m4a": "alac",
    ".aac": "aac", ".ac3": "ac3", ".wma": "wmav2", ".amr": "libopencore_amrnb -ar 8000 -ac 1", ".mka": "libvorbis",
}  # fmt: skip


@pytest.fixture(scope="module")
def ffmpeg():
    """A function that runs ffmpeg with arguments; skips the test where there is none, or not this encoder."""
    program = shutil.which("ffmpeg") or pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()

    def run(*args):
        done = subprocess.run([program, "-v", "error", "-y", *map(str, args)], capture_output=True, text=True)
        if "encoder" in done.stderr.lower():
            pytest.skip(f"this ffmpeg lacks an encoder: {done.stderr.splitlines()[0]}")
        assert done.returncode == 0, done.stderr

    return run


@pytest.mark.parametrize("suffix", audio.VIDEO)
def test_every_kind_of_video_is_read(make, ffmpeg, tmp_path, suffix):
    path = make("a.wav", tones(1.0, channels=2))
    ffmpeg("-i", path, "-c:a", *CODECS[suffix].split(), tmp_path / f"b{suffix}")
    found, expected = np.concatenate(stream(tmp_path / f"b{suffix}", 8000)), audio.load(path, 8000)
    assert abs(len(found) - len(expected)) < 1200  # encoders begin and end with a little silence
    shifted, share = scipy.signal.correlate(found, expected), 0.5 if suffix == ".amr" else 0.9
    assert np.abs(shifted).max() > share * np.linalg.norm(found) * np.linalg.norm(expected)


PLAYLISTS = {
    "hls.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile secret.m4a\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"'
    ' mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet'
    ' mimeType="audio/mp4"><Representation id="1" bandwidth="1" codecs="mp4a.40.2"><BaseURL>secret.m4a</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_does_not_open_other_files(make, ffmpeg, tmp_path, kind):
    """Whatever it is called: what ffmpeg takes it for shows in its first bytes."""
    path = make("a.wav", tones(1.0))
    for name in ("secret.m4a", "secret.ts"):
        ffmpeg("-i", path, "-c:a", "aac", tmp_path / name)
    for suffix in (".m4a", ".mp4", ".mkv", ".ts"):
        (tmp_path / f"list{suffix}").write_text(PLAYLISTS[kind])
        with pytest.raises(AudioError, match=rf"list\{suffix}: ffmpeg .*\(\w") as caught:
            stream(tmp_path / f"list{suffix}")
        assert not video_encoder.has_picture(ffmpeg_module.ffmpeg_program("tests"), tmp_path / f"list{suffix}")
        assert kind == "hls.m3u8" or "list of others" in str(caught.value)


def test_every_file_that_ffmpeg_reads_is_named_by_one_function():
    sources = (ROOT / "local").rglob("*.py")
    assert [path.name for path in sources if re.search('"-i", f"file:', path.read_text())] == ["ffmpeg.py"]


def test_a_name_that_is_no_text(make, tmp_path):
    """Other systems' names may hold bytes that are not UTF-8."""
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")
    os.rename(make("a.wav", tones(0.5)), name)
    assert audio.probe(name).frames == len(audio.load(name, audio.probe(name).rate))
    with audio.opened(name) as source:
        assert sum(len(part) for part in source.parts) == audio.probe(name).frames
    with pytest.raises(AudioError, match=r"caf\\udce9\.txt: no such file"):
        audio.probe(name.replace(".wav", ".txt"))


def wav_bytes(samples, rate, channels=1):
    """A WAV file of int16 silence, whose header may say any rate."""
    size = 2 * samples * channels
    head = struct.pack("<IHHIIHH", 16, 1, channels, rate, 2 * rate * channels % 2**32, 2 * channels % 2**16, 16)
    return b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + head + b"data" + struct.pack("<I", size) + bytes(size)


@pytest.mark.parametrize("rate, good", [(1, False), (999, False), (1000, True), (768_000, True), (768_001, False)])
def test_rates_that_no_sound_has_are_refused_wherever_sound_enters(tmp_path, fake_ffmpeg, rate, good):
    """Resampled from 1 Hz, 64 kB of sound would take 4 GB."""
    data = wav_bytes(32000, rate)
    (tmp_path / "a.wav").write_bytes(data)
    (tmp_path / "a.mp4").write_bytes(b"pictures")
    pcm = data[44:]
    for sound in (
        lambda: audio.probe(tmp_path / "a.wav"),
        lambda: audio.load(tmp_path / "a.wav", 32000),
        lambda: stream(tmp_path / "a.wav"),
        lambda: stream(tmp_path / "a.mp4"),
        lambda: list(audio.piped(pipe(data), "pipe").at(32000)),
        lambda: list(audio.piped(pipe(pcm), "pipe", rate).at(32000)),
    ):
        if good:
            sound()
        else:
            with pytest.raises(AudioError, match=rf"(a\.wav|a\.mp4|pipe): .*{rate} Hz.* 1000 to 768000"):
                sound()


def test_more_channels_than_any_sound_has_are_refused():
    with pytest.raises(AudioError, match="pipe: .*2000 channels"):
        list(audio.piped(pipe(wav_bytes(100, 8000, channels=2000)), "pipe").at(8000))


RATES = [(1000, 32000), (44100, 32000), (44101, 16000), (24414, 32000), (767_999, 16000)]


@pytest.mark.parametrize("rate, to_rate", RATES)
def test_blocks_are_bounded_and_make_the_whole(make, monkeypatch, rate, to_rate):
    """Whatever the two rates: what comes at a time is bounded, and together it is what soxr makes of the whole."""
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 100_003).astype(np.float32)
    path = make("a.wav", wave, rate, "FLOAT")
    monkeypatch.setattr(audio, "BLOCK", 10_007)
    parts = stream(path, to_rate)
    # soxr gives its last samples at once: a few hundred, times the ratio where it is large
    assert max(map(len, parts)) <= 10_008 + 1000 * max(1, to_rate // rate)
    expected = soxr.resample(wave, rate, to_rate, quality="HQ")
    np.testing.assert_array_equal(np.concatenate(parts), expected)
    np.testing.assert_array_equal(audio.load(path, to_rate), expected)


LOAD = """
import sys
from paddletag.data import audio
from paddletag.reports import video
before = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
wave = audio.load(sys.argv[1], 32000)
after = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print(wave.nbytes, 1024 * (int(after) - int(before)))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("rate, channels", [(1000, 1), (48000, 8)])
def test_loading_takes_little_more_memory_than_its_result(make, rate, channels):
    """The eight channels, decoded as a whole, would take 184 MB."""
    path = make("a.wav", np.zeros((120 * 48000 // (1 if rate == 48000 else 8), channels), np.int16), rate)
    env = {**os.environ, "PYTHONPATH": str(ROOT / "local")}
    done = subprocess.run([sys.executable, "-c", LOAD, path], capture_output=True, text=True, check=True, env=env)
    result, taken = map(int, done.stdout.split())
    assert result > 15e6 and taken < result + 20e6


class Broken(soundfile.SoundFile):
    """A decoder that fails in a way that nobody has foreseen."""

    error = RuntimeError("internal error")

    def read(self, *args, **kwargs):
        raise self.error


@pytest.mark.parametrize(
    "error, words",
    [
        (RuntimeError("internal error"), "internal error"),
        (ZeroDivisionError("division by zero"), "division by zero"),
        (MemoryError(), "does not fit into memory"),
        (OSError(errno.EIO, "Input/output error"), "input/output error"),
    ],
)
def test_whatever_fails_in_a_decoder_is_an_error_of_its_file(make, monkeypatch, error, words):
    path = make("a.wav", tones(0.1))
    monkeypatch.setattr(Broken, "error", error)
    monkeypatch.setattr(audio, "_InOrder", Broken)
    for read in (lambda: audio.load(path, 32000), lambda: stream(path)):
        with pytest.raises(AudioError, match=rf"a\.wav: .*{words}"):
            read()


def test_a_fault_of_this_program_is_none_of_the_file(make, monkeypatch):
    def wrong(*args):
        raise RuntimeError("a bug")

    monkeypatch.setattr(audio, "mono", wrong)
    for read in (lambda: audio.load(make("a.wav", tones(0.1)), 32000), lambda: stream(make("a.wav", tones(0.1)))):
        with pytest.raises(RuntimeError, match="a bug"):
            read()
