#!/usr/bin/env bash
# Make a fresh clone work: .venv in the repository's root, with the versions of requirements.lock.
#   bash tools/install.sh [--dev] [--parity] [--gpu [CUDA]] [--python PATH]
#
#   --dev           also what the tests need (pytest, ruff, Jupyter's kernel, playwright, ffmpeg)
#   --parity        also the PyTorch implementations that some tests compare with (Python 3.11 and 3.12, CPU)
#   --gpu [CUDA]    Paddle's wheel for NVIDIA GPUs in place of the one for the CPU; CUDA is cu118, cu126 (default),
#                   cu129 or cu130, whichever your driver can run (nvidia-smi names its CUDA version)
#   --python PATH   a Python 3.10 to 3.12 (default: the first that works of python3.12, 3.11, 3.10 and python3)
#
# Safe to run again, and quick when nothing changed. A later run keeps --dev, --parity and --gpu; to go back, delete .venv.

set -Eeuo pipefail

die() { # STATUS MESSAGE
  echo "install.sh: error: $2" >&2
  exit "$1"
}

extras=base
paddle=
python=
while [ $# -gt 0 ]; do
  case $1 in
    --dev | --parity) extras+=,${1#--} ;;
    --gpu=*) paddle=${1#*=} ;;
    --gpu)
      paddle=cu126
      if [[ ${2-} == cu* ]]; then
        paddle=$2
        shift
      fi
      ;;
    --python=*) python=${1#*=} ;;
    --python)
      python=${2-}
      shift
      ;;
    -h | --help)
      sed -n '2,/^$/ s/^# \{0,1\}//p' "$0"
      exit
      ;;
    *) die 2 "unknown option $1 (see --help)" ;;
  esac
  [ $# -gt 0 ] || die 2 "--python needs the path of a Python"
  shift
done
[[ -z $paddle || $paddle =~ ^cu[0-9]+$ ]] || die 2 "--gpu $paddle: expected a CUDA version such as cu126"

runs() { # does this Python run, is it one that we support, and does it have the modules of the other arguments?
  "$1" -c 'import importlib, sys
[importlib.import_module(name) for name in sys.argv[1:]]
sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' "${@:2}" >/dev/null 2>&1
}

version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

# Nothing from outside may stand in for a package that .venv lacks.
unset PYTHONPATH PYTHONHOME
export PYTHONNOUSERSITE=1

if [ -n "$python" ]; then
  python=$(command -v "$python") || die 2 "--python: no such program"
  python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
  runs "$python" venv ensurepip || die 2 "--python $python: not a Python 3.10 to 3.12 with the modules venv and ensurepip"
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The stamp says what .venv holds: paddle's kind, base[,dev][,parity], the lock's checksum (or "unfinished"), and the folder.
stamp=.venv/paddletag.stamp
had_paddle='' had_extras='' had_lock='' had_root=''
[ ! -f $stamp ] || read -r had_paddle had_extras had_lock had_root <$stamp || true
paddle=${paddle:-${had_paddle:-cpu}}
wanted=,$extras,$had_extras,
extras=base
for extra in dev parity; do
  [[ $wanted != *,$extra,* ]] || extras+=,$extra
done

check() { # import everything at its pinned version; print versions and devices
  .venv/bin/python - "$paddle" "$extras" <<'PYTHON'
import importlib
import pathlib
import shutil
import sys
import warnings
from importlib import metadata

MODULES = """paddle paddleaudio paddlespeech.cls.models safetensors.paddle numpy scipy.fft soundfile soxr pyarrow
yacs.config yaml sklearn.metrics matplotlib tqdm paddle2onnx onnx onnxruntime paddletag.runtime""".split()
EXTRAS = {  # package: module
    "dev": {"pytest": "pytest", "pytest-xdist": "xdist", "nbclient": "nbclient", "ipykernel": "ipykernel",
            "playwright": "playwright.sync_api", "imageio-ffmpeg": "imageio_ffmpeg"},
    "parity": {"torch": "torch", "torchlibrosa": "torchlibrosa.stft", "transformers": "transformers"},
}
SHOWN = """paddlespeech paddleaudio numpy scipy soundfile soxr pyarrow scikit-learn safetensors matplotlib paddle2onnx
onnxruntime pytest ruff torch transformers""".split()


def main(kind, extras):
    from packaging.requirements import Requirement

    installed, modules = {}, list(MODULES)
    for line in pathlib.Path("requirements.lock").read_text().splitlines():
        text, _, comment = line.partition("#")
        extra = comment.strip()
        if not text.strip() or (extra in EXTRAS and extra not in extras.split(",")):
            continue
        pin = Requirement(text)
        if pin.marker and not pin.marker.evaluate():
            continue
        modules += [module for name, module in EXTRAS.get(extra, {}).items() if name == pin.name]
        name = "paddlepaddle-gpu" if pin.name == "paddlepaddle" and kind != "cpu" else pin.name
        installed[name] = metadata.version(name)
        if installed[name] not in pin.specifier:
            raise ImportError(f"{name} is {installed[name]}, requirements.lock says {pin.specifier}")

    warnings.filterwarnings("ignore", message="No ccache found")  # of use to those who compile operators only
    for name in modules:
        importlib.import_module(name)
    import paddle
    from paddletag import runtime

    if not pathlib.Path(runtime.__file__).is_relative_to(pathlib.Path.cwd()):
        raise ImportError(f"paddletag comes from {runtime.__file__}")

    print(f"Python {sys.version.split()[0]}, {next(f'{n} {v}' for n, v in installed.items() if 'paddlepaddle' in n)} ({kind})")
    print(", ".join(f"{name} {installed[name]}" for name in SHOWN if name in installed))
    print(f"CPU: {runtime.machine()}")
    cuda = paddle.device.cuda
    gpus = [f"{i} {cuda.get_device_name(i)}" for i in range(cuda.device_count())]
    hint = " in use (tools/install.sh --gpu installs Paddle for them)" if kind == "cpu" and shutil.which("nvidia-smi") else ""
    print(f"GPUs: {', '.join(gpus) or 'none' + hint}")


try:
    main(*sys.argv[1:])
except Exception as error:
    missing = isinstance(error, metadata.PackageNotFoundError)
    text = f"{error.name} is not installed" if missing else " ".join(f"{type(error).__name__}: {error}".split())
    if "libgomp" in text:
        text += " (Debian, Ubuntu: apt-get install libgomp1)"
    sys.exit(f".venv is not complete: {text}")
PYTHON
}

# A .venv that is there is used, or mended where it is ours and broken (interrupted, moved, its Python gone).
fresh=no
if [ -e .venv ]; then
  if [ -n "$had_root" ] && { [ "$had_root" != "$PWD" ] || ! runs .venv/bin/python pip; }; then
    echo "install.sh: .venv was moved or is broken: making it anew"
    rm -rf .venv
    had_paddle='' had_lock=''
  elif ! runs .venv/bin/python pip; then
    die 2 "$PWD/.venv is no Python 3.10 to 3.12 with pip: delete it, then run this again"
  elif [ -n "$python" ] && [ "$(version "$python")" != "$(version .venv/bin/python)" ]; then
    die 2 "$PWD/.venv is Python $(version .venv/bin/python), --python is $(version "$python"): delete .venv to change"
  fi
fi

lock=$(cat requirements.lock pyproject.toml | cksum | tr ' ' -)
if [ "$had_paddle $had_extras $had_lock" = "$paddle $extras $lock" ]; then
  if check; then
    exit
  fi
  echo "install.sh: installing again"
fi

if [ ! -e .venv ]; then
  for candidate in python3.12 python3.11 python3.10 python3; do
    if [ -z "$python" ] && runs "$candidate" venv ensurepip; then
      python=$candidate
    fi
  done
  [ -n "$python" ] || die 2 "no Python 3.10 to 3.12 with the modules venv and ensurepip found: install one \
(Debian, Ubuntu: apt-get install python3-venv) or name one with --python PATH"
  fresh=yes
  mkdir .venv
fi
log=$(mktemp)
pins=$(mktemp)
# Half a .venv that recipes would pick up is worse than none.
trap 'rm -f "$log" "$pins"; [ $fresh = no ] || rm -rf .venv' EXIT
echo "$paddle $extras unfinished $PWD" >$stamp
if [ $fresh = yes ]; then
  "$python" -m venv .venv >"$log" 2>&1 || die 1 "$python -m venv failed: $(tail -n 1 "$log")"
fi

pip() { # runs pip, of whose output only the large downloads are shown
  .venv/bin/python -m pip --disable-pip-version-check --no-input "$@" 2>&1 | tee "$log" |
    { grep --line-buffered -oE 'Downloading [^ ]+ \([0-9.]+ MB\)' || true; }
}

reason() { { grep '^ERROR' "$log" || tail -n 1 "$log"; } | tail -n 1 | sed 's/^ERROR: //'; }

grep '^[a-z]' requirements.lock >"$pins"
for extra in dev parity; do
  [[ ,$extras, == *,$extra,* ]] || sed -i.all "/# $extra\$/d" "$pins"
done
[ "$paddle" = cpu ] || sed -i.all '/^paddlepaddle==/d' "$pins"
rm -f "$pins.all"
echo "install.sh: installing $(grep -c . "$pins") packages into $PWD/.venv (Python $(version .venv/bin/python))"
pip install --progress-bar off --no-deps --only-binary :all: -r "$pins" ||
  die 1 "pip could not install requirements.lock: $(reason): is the package index within reach? Run this again then"
if [ "$paddle" != cpu ]; then
  index=https://www.paddlepaddle.org.cn/packages/stable/$paddle/
  wheel=paddlepaddle-gpu==$(sed -n 's/^paddlepaddle==\([^ ]*\).*/\1/p' requirements.lock)
  # The two wheels own the same files, and those for two versions of CUDA bear the same version.
  [ "$had_paddle" = "$paddle" ] && [ "$had_lock" != unfinished ] ||
    pip uninstall --yes paddlepaddle paddlepaddle-gpu || die 1 "pip: $(reason)"
  # With its dependencies: NVIDIA's libraries lie in the same index; all else is there, and the pins hold it.
  pip install --progress-bar off --only-binary :all: --constraint "$pins" --index-url "$index" "$wheel" ||
    die 1 "pip could not install $wheel from $index: $(reason): is that address within reach? Run this again then, with \
another CUDA version (--gpu cu118, cu126, cu129, cu130), or for the CPU: delete .venv and leave out --gpu"
fi
pip install --no-deps --no-index --no-build-isolation --editable . ||
  die 1 "pip could not install the project itself: $(reason)"
fresh=no
check || exit 1
echo "$paddle $extras $lock $PWD" >$stamp
