"""The ffmpeg program: where it is, and what it may read."""

import shutil

from paddletag.data.pcm import AudioError
from paddletag.type_aliases import File

FORMATS = (  # what ffmpeg may take a file for: sound and video in one file, no list of other files or addresses
    "mov,matroska,avi,flv,asf,mpeg,mpegvideo,mpegts,aac,loas,ac3,eac3,amr,amrnb,amrwb,mp3,wav,w64,aiff,au,caf,ogg,flac"
)


def ffmpeg_program(path: File) -> str:
    """The ffmpeg program, the system's or else imageio-ffmpeg's. AudioError that names `path` if there is none."""
    if program := shutil.which("ffmpeg"):
        return program
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        raise AudioError(f"{path}: needs ffmpeg: install this program, or the package imageio-ffmpeg") from None


def ffmpeg_input(path: File) -> list[str]:
    """ffmpeg's options to read `path` and nothing that is named in it: a list of files (HLS, concat ...) is refused."""
    return ["-protocol_whitelist", "file,pipe", "-format_whitelist", FORMATS, "-i", f"file:{path}"]
