# What every recipe's run.sh shares: options, stages, folds side by side, several processes. A run.sh changes to its
# own folder, sets its defaults and sources this file; a variable with a default is an option.
# shellcheck shell=bash disable=SC2015,SC2034,SC2154

set -Eeuo pipefail

children=() # process groups that are running

finish() { # end what still runs: at first gently, so that Python tidies up
  local status=$? tenth signal child alive
  trap '' INT TERM HUP
  exec 2>/dev/null
  for child in $(jobs -p); do # the signal may have come between a fork and the line that remembers it
    [[ " ${children[*]} " == *" $child "* ]] || children+=("$child")
  done
  for tenth in {0..100}; do
    signal=0 alive=
    case $tenth in 0) signal=INT ;; 30) signal=TERM ;; 100) signal=KILL ;; esac
    for child in "${children[@]}"; do
      kill -s "$signal" -- "-$child" && alive=true
    done
    [[ $alive ]] || break
    sleep 0.1
  done
  exit "$status"
}
# Set before anything else: a SIGINT for which bash has no trap is lost while it waits for a command.
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

die() {
  printf 'run.sh: error: %s\n' "$*" >&2
  exit 2
}

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || die "bash $BASH_VERSION is too old: 4.4 is needed"

caller=$OLDPWD # where the user stands
recipe=$PWD/${BASH_SOURCE[1]##*/}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
local=$root/local

quoted() { # one line that a shell reads as these words
  local word line=
  for word; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word=${word@Q}
    line+=" $word"
  done
  echo "${line:1}"
}
RECIPE_COMMAND=$(quoted bash "$0" "$@") # results remember what made them
export RECIPE_COMMAND

# ---------------------------------------------------------------------------------------------------------- options

options=()
declare -A help=() given=()
while IFS= read -r line && [[ $line != *recipe.sh ]]; do
  if [[ $line =~ ^([a-z][a-z0-9_]*)=[^\#]*(\#\ *(.*))?$ ]]; then
    options+=("${BASH_REMATCH[1]}")
    help[${BASH_REMATCH[1]}]=${BASH_REMATCH[3]}
  fi
done <"$recipe"

default() { # default NAME VALUE HELP: an option that all recipes have, unless run.sh has its own
  [[ -v help[$1] ]] && return
  printf -v "$1" %s "$2"
  options+=("$1")
  help[$1]=$3
}
default data "" "folder for the manifest and the features; empty: data/ in the recipe's folder"
default exp "" "folder for models and results; empty: exp/<name of the config>/ there"
default opts "" "settings that override the config, e.g. \"train.epochs 2 train.lr 1e-3\""
default folds "1" "folds to hold out, one model each; test: the split test, of data with splits"
default seeds "" "seeds to train each fold with, e.g. \"0 1 2\"; empty: the config's alone"
default extend false "true: a finished run may go on to more train.epochs"
default tta 1 "copies of each clip, rolled in time, whose scores stage 3 averages; 5: results are named *.tta5.*"
default gpus "" "devices, e.g. 0,1,2,3; empty: the CPU"
default nproc "" "processes on the CPU; empty: 1"
default jobs "" "folds side by side, which share the GPUs; empty: 1, or on the CPU as many as cores"
default nnodes 1 "machines, which share a file system"
default node_rank 0 "the number of this machine, from 0"
default master "" "HOST:PORT of machine 0, a port that is free there"
default node_wait 600 "seconds that a machine waits for the others before each stage on all of them"
default dry_run false "true: print the commands and run none"

usage() {
  local name
  sed -n '1d; /^#/!q; s/^# \{0,1\}//p' "$recipe"
  printf '\nOptions:\n'
  for name in "${options[@]}"; do
    printf '  --%-11s %s [%s]\n' "${name//_/-}" "${help[$name]}" "${!name}"
  done
}

for word; do
  if [[ $word == --help || $word == -h ]]; then
    usage
    exit
  fi
done

nearest() { # nearest WORD NAME ...: ": did you mean NAME?" of the name that is spelt most like WORD; or nothing
  printf '%s\n' "$@" | awk '
    NR == 1 { word = $0; n = length(word); least = n / 2 + 0.6; next }
    {
      m = length($0)
      for (j = 0; j <= m; j++) row[j] = j
      for (i = 1; i <= n; i++) { # row[j]: edits from the first i letters of word to the first j of this name
        before = row[0]; row[0] = i
        for (j = 1; j <= m; j++) {
          edits = before + (substr(word, i, 1) != substr($0, j, 1))
          if (row[j] + 1 < edits) edits = row[j] + 1
          if (row[j - 1] + 1 < edits) edits = row[j - 1] + 1
          before = row[j]; row[j] = edits
        }
      }
      if (row[m] < least) { least = row[m]; best = $0 }
    }
    END { if (best != "") { gsub("_", "-", best); print ": did you mean --" best "?" } }'
}

while (($#)); do
  [[ $1 == --?* ]] || die "unexpected argument: $1 (see --help)"
  name=${1%%=*}
  option=${name#--} option=${option//-/_}
  [[ $option =~ ^[a-z0-9_]+$ && " ${options[*]} " == *" $option "* ]] ||
    die "unknown option: $name$(nearest "$option" "${options[@]}") (see --help)"
  if [[ $1 == *=* ]]; then
    value=${1#*=}
  elif (($# > 1)) && [[ $2 != --?* ]]; then
    value=$2
    shift
  elif [[ ${!option} == false ]]; then # a flag
    value=true
  else
    die "$1 needs a value"
  fi
  shift
  [[ $option != opts || ! ${given[opts]:-} ]] || value="$opts $value" # all settings count
  printf -v "$option" %s "$value"
  given[$option]=1
done

number() { # number NAME LOWEST HIGHEST
  [[ ${!1} =~ ^(0|[1-9][0-9]{0,5})$ ]] && ((${!1} >= $2 && ${!1} <= $3)) ||
    die "--${1//_/-} ${!1}: not a number from $2 to $3"
}
number stage 0 5
number stop_stage 0 5
((stage <= stop_stage)) || die "--stage $stage is after --stop-stage $stop_stage"
number tta 1 1000
for name in dry_run extend; do
  [[ ${!name} == true || ${!name} == false ]] || die "--${name//_/-} ${!name}: neither true nor false"
done

folds=${folds//,/ } seeds=${seeds//,/ }
read -r -a fold_list <<<"$folds" || true
read -r -a seed_list <<<"$seeds" || true
((${#fold_list[@]})) || die "--folds is empty"
((${#seed_list[@]})) || [[ ! $seeds ]] || die "--seeds is empty"
for name in fold seed; do
  declare -n list=${name}_list all=${name}s
  for value in "${list[@]}"; do
    [[ $value =~ ^(0|[1-9][0-9]{0,8})$ || $name$all == foldtest ]] ||
      die "--${name}s $all: not numbers separated by blanks or commas$([[ $name == seed ]] || echo ", nor the word test")"
  done
  [[ -z $(printf '%s\n' "${list[@]}" | sort | uniq -d) ]] || die "--${name}s $all: the same $name twice"
done
fold='' seed=''

read -r -d '' -a overrides <<<"$opts" || true
((${#overrides[@]} % 2 == 0)) || die "--opts $opts: not pairs of key and value"
((${#overrides[@]} == 0)) || overrides=(--opts "${overrides[@]}")

for name in config raw wav; do # what is read is looked for where the user stands, then in the recipe's folder
  [[ ${given[$name]:-} && ${!name} ]] || continue
  value=${!name}
  if [[ $value == /* ]]; then
    [[ -e $value ]] || die "--$name $value: no such file or folder"
  elif [[ -e $caller/$value ]]; then
    printf -v "$name" %s "$caller/$value"
  elif [[ ! -e $value ]]; then
    die "--$name $value: neither in $caller nor in $PWD"
  fi
done
for name in data exp; do # what is written lies where the user stands
  [[ ! ${given[$name]:-} || ! ${!name} || ${!name} == /* ]] || printf -v "$name" %s "$caller/${!name}"
done
data=${data:-$PWD/data}
config_name=${config##*/}
exp=${exp:-$PWD/exp/${config_name%.*}}
export RECIPE_CALLER=$caller # for paths in --opts
trainer=train # the script of stage 2
! grep -qs '^classic:' -- "$config" || trainer=train_classic

# ---------------------------------------------------------------------------------------- devices, processes, Python

number nnodes 1 1000
number node_rank 0 999
number node_wait 1 999999
((node_rank < nnodes)) || die "--node-rank $node_rank: of $nnodes machines the last has number $((nnodes - 1))"
if ((nnodes > 1)); then
  [[ $master =~ ^[^:]+:[1-9][0-9]{0,4}$ ]] && ((${master##*:} < 65536)) ||
    die "--nnodes $nnodes needs --master HOST:PORT, not '$master'"
else
  [[ ! $master ]] || die "--master $master needs --nnodes"
fi
if [[ $gpus ]]; then
  [[ ! $nproc ]] || die "--gpus $gpus and --nproc $nproc: processes run on GPUs or on the CPU"
  [[ $gpus =~ ^[0-9]+(,[0-9]+)*$ ]] || die "--gpus $gpus: not numbers separated by commas"
  [[ -z $(tr , '\n' <<<"$gpus" | sort | uniq -d) ]] || die "--gpus $gpus: the same GPU twice"
  device=gpu
  IFS=, read -r -a gpu_list <<<"$gpus"
  processes=${#gpu_list[@]}
  export CUDA_VISIBLE_DEVICES=$gpus
else
  device=cpu
  nproc=${nproc:-1}
  number nproc 1 256
  processes=$nproc
  export CUDA_VISIBLE_DEVICES=
  cores=$(env -u OMP_NUM_THREADS nproc)
  ((nproc <= cores)) ||
    printf 'run.sh: --nproc %s: on %s cores they are slower than %s\n' "$nproc" "$cores" "$cores" >&2
  export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1} # large memory pages: steps take a tenth less time
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # more threads gain nothing, more processes do
if [[ ! $jobs ]]; then
  jobs=1
  [[ $device == gpu ]] || ((nnodes > 1 || nproc > cores)) || jobs=$((cores / nproc))
fi
number jobs 1 256
((jobs == 1 || nnodes == 1)) || die "--jobs $jobs: on several machines folds run one after another"
[[ $device == cpu ]] || ((processes % jobs == 0)) ||
  die "--jobs $jobs: does not divide the ${#gpu_list[@]} GPUs of --gpus $gpus into equal shares"
share=$((processes / jobs)) # of the GPUs, for each fold
runs=() # what is to be trained: "FOLD SEED"
for value in "${seed_list[@]:-}"; do
  runs+=("${fold_list[@]/%/ $value}")
done
((jobs <= ${#runs[@]})) || jobs=${#runs[@]}

# A scheduler's variables would tell a single process that it is one of many.
unset PADDLE_TRAINER_ID PADDLE_TRAINERS_NUM PADDLE_TRAINER_ENDPOINTS PADDLE_CURRENT_ENDPOINT PADDLE_MASTER \
  PADDLE_LOCAL_RANK PADDLE_LOCAL_SIZE PADDLE_RANK PADDLE_NNODES PADDLE_NPROC_PER_NODE PADDLE_DEVICES PADDLE_LOG_DIR \
  PADDLE_IPS PADDLE_START_PORT PADDLE_JOB_ID POD_IP MASTER_ADDR MASTER_PORT
export PYTHONUNBUFFERED=1 GLOG_minloglevel=${GLOG_minloglevel:-1}

python=${PYTHON:-$root/.venv/bin/python}
[[ $python != */* || $python == /* ]] || python=$caller/$python
if [[ ! ${PYTHON:-} && ! -x $python ]]; then
  python=python3
  [[ $dry_run == true ]] || "$python" -c "import yacs" 2>/dev/null || die "not installed yet: run: bash $root/tools/install.sh"
fi

# ------------------------------------------------------------------------------------------------------------ running

watched= # true while watch.py watches over the command, and says why it ended

background() { # start a command in a process group of its own, so that all of it can be ended
  set -m
  "$@" &
  children+=($!)
  set +m
}

run() {
  if [[ $dry_run == true ]]; then
    quoted "$@"
  elif [[ $BASHPID != "$$" ]]; then # a fold among others, which has its group
    "$@" || failed $?
  else
    background "$@"
    wait "${children[0]}" 2>/dev/null || failed $? # bash itself says nothing of a signal
    children=()
  fi
}

failed() { # failed STATUS: say in one line what failed, unless that has been said, and exit
  local status=$1 cause="exit status $1"
  ((status != 2 && status != 130 && status != 141)) && [[ ! $watched || ! -e $log/cause ]] || exit "$status"
  ((status != 137)) || cause="killed: out of memory?"
  printf 'run.sh: %s failed (%s)\n' "$step" "$cause" >&2
  exit "$status"
}

# ------------------------------------------------------------------------------------------------ the words of run.sh

stage() { # stage NUMBER NAME COMMAND ...: run the command if --stage <= NUMBER <= --stop-stage
  ((stage <= $1 && $1 <= stop_stage)) || return 0
  # Scikit-learn fits in one process, whatever --nproc and --nnodes say.
  [[ $3 != launch || $4 != */train_classic.py ]] || set -- "$1" "$2" "$python" "${@:4}"
  [[ $3 == launch || $node_rank == 0 ]] || return 0 # the other nodes meet node 0 in its next launch
  step="stage $1: $2${fold:+ ($said)}"
  job=$2${seed:+.seed$seed}${fold:+.$place}
  log=$exp/log/$job
  ((nnodes == 1)) || log+=.node$node_rank
  if [[ $dry_run == true ]]; then echo "# $step"; else echo "== $step"; fi
  if [[ $3 == launch ]]; then
    "${@:3}"
  elif ((nnodes > 1)); then
    watch --alone -- "${@:3}" # the other nodes wait for it
  else
    run "${@:3}"
  fi
}

each_fold() { # each_fold FUNCTION: call it for every fold and seed, --jobs of them at a time, with $model set
  local base=("${overrides[@]}") run slot=0
  slots=()
  for run in "${runs[@]}"; do
    choose "$run"
    ((${#seed_list[@]} == 0)) || overrides=(--opts "${base[@]:1}" train.seed "$seed")
    if ((jobs == 1)) || [[ $dry_run == true ]]; then
      take_share "$slot"
      "$1"
      slot=$(((slot + 1) % jobs))
    else
      while ((${#children[@]} == jobs)); do reap; done
      for ((slot = 0; ; slot++)); do
        [[ " ${slots[*]} " == *" $slot "* ]] || break
      done
      background labelled "$1" "$slot"
      slots[$!]=$slot
    fi
  done
  while ((${#children[@]})); do reap; done
  [[ $device == cpu ]] || take_gpus "$gpus"
  overrides=("${base[@]}")
  choose "${runs[0]}" # whose model stage 4 takes
  fold='' seed=''
}

choose() { # choose "FOLD SEED": set what belongs to that run
  read -r fold seed <<<"$1"
  place=fold$fold said="${seed:+seed $seed, }fold $fold"
  [[ $fold != test ]] || place=test said="${seed:+seed $seed, }test"
  model=$exp${seed:+/seed$seed}/$place
}

take_share() { # take_share SLOT: of the GPUs, those of the folds that run in this slot
  [[ $device == cpu ]] || take_gpus "$(IFS=, && echo "${gpu_list[*]:$1 * share:share}")"
}

take_gpus() { # take_gpus NUMBERS: launch on these, a process each
  local commas=${1//[0-9]/}
  [[ $CUDA_VISIBLE_DEVICES != "$1" ]] || return 0
  export CUDA_VISIBLE_DEVICES=$1
  processes=$((${#commas} + 1))
  [[ $dry_run != true ]] || quoted export "CUDA_VISIBLE_DEVICES=$1"
}

labelled() { # labelled FUNCTION SLOT: run it, "fold N | " or "test | " before each of its lines
  export PADDLETAG_PROGRESS=0 # bars of several folds would overwrite each other
  take_share "$2"
  "$1" 2>&1 | (trap '' INT TERM && exec sed -u "s/^/$said | /")
}

reap() { # forget the children that ended; one that failed ends the run, by set -e
  local child running=()
  sleep 0.1
  for child in "${children[@]}"; do
    if kill -0 "$child" 2>/dev/null; then
      running+=("$child")
    else
      wait "$child"
      unset "slots[$child]"
    fi
  done
  children=("${running[@]}")
}

launch() { # launch SCRIPT ARGUMENTS: on one process, or on as many as --gpus or --nproc, and --nnodes say
  if ((processes * nnodes == 1)); then
    run "$python" "$@"
    return
  fi
  local command=("$python" -m paddle.distributed.launch --nproc_per_node "$processes" --log_dir "$log")
  # On a CPU the launcher must ask Paddle which devices there are: of CUDA_VISIBLE_DEVICES it only counts the commas.
  [[ $device == gpu ]] || command=(env XPU_VISIBLE_DEVICES=all "${command[@]}" --enable_gpu_log False)
  ((nnodes == 1)) || command+=(--nnodes "$nnodes" --rank "$node_rank" --master "$master" --job_id "$job")
  watch -- "${command[@]}" "$local/paddletag/launch/worker.py" "$@"
}

watch() { # watch [--alone] -- COMMAND: run it under watch.py, which ends it when another node ends, and they it
  local watched=true words=(--step "$step" --job "$job" --log "$log")
  ((nnodes == 1)) || words+=(--node "$node_rank" --nodes "$nnodes" --master "$master" --node_wait "$node_wait")
  if [[ $dry_run == true ]]; then
    while [[ $1 != -- ]]; do shift; done
    run "${@:2}"
    return
  fi
  mkdir -p "$log" || exit 2
  rm -f "$log"/*
  : >"$log/workerlog.0"
  run "$python" "$local/paddletag/launch/watch.py" "${words[@]}" "$@"
}

if [[ $dry_run == true ]]; then
  quoted cd "$PWD"
  for name in CUDA_VISIBLE_DEVICES OMP_NUM_THREADS GLIBC_TUNABLES RECIPE_CALLER; do
    [[ ! -v $name ]] || quoted export "$name=${!name}"
  done
fi
