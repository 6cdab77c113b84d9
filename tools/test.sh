#!/usr/bin/env bash
# Run the tests; from a fresh clone, install what they need first.
#   bash tools/test.sh [--full | --gpu] [arguments of pytest]
#
#   --full   also the tests that take minutes
#   --gpu    those alone that need one or two GPUs, in an environment made by tools/install.sh --dev --gpu
#
# The files of tests run on two processes; with --full one after another, since some of those tests time what they run.

set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

arguments=(-n 2 --dist loadfile)
install=(--dev)
for argument in "$@"; do
  case $argument in
    --full) arguments+=(-n 0 -m "") ;;
    --gpu) arguments+=(-n 0 -m gpu) install+=(--gpu) ;;
    -h | --help)
      sed -n '2,/^$/ s/^# \{0,1\}//p' tools/test.sh
      exit
      ;;
    *) arguments+=("$argument") ;;
  esac
done

unset PYTHONPATH PYTHONHOME
export PYTHONNOUSERSITE=1
bash tools/install.sh "${install[@]}"
exec .venv/bin/python -m pytest "${arguments[@]}"
