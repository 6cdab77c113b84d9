#!/usr/bin/env bash
# A recipe for a data set of your own: examples/NAME with a run.sh, which needs no change, and one YAML file to edit.
#
#   bash utils/new_recipe.sh NAME [--table] [--from RECIPE]
#
# --table: the data set is a table (CSV, TSV), a row per sound, with the sounds' paths and labels; without it, a folder
# per class. RECIPE (esc50) is the one whose backbone and training values the YAML file begins with.

set -Eeuo pipefail

die() {
  printf 'new_recipe.sh: error: %s\n' "$*" >&2
  exit 2
}

name='' from=esc50 table=''
while (($#)); do
  case $1 in
    --help | -h)
      sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
      exit
      ;;
    --table) table=true ;;
    --from=*) from=${1#*=} ;;
    --from)
      (($# > 1)) || die "--from needs the name of a recipe"
      from=$2
      shift
      ;;
    -*) die "unknown option: $1 (see --help)" ;;
    *)
      [[ ! $name ]] || die "unexpected argument: $1 (see --help)"
      name=$1
      ;;
  esac
  shift
done
examples=$(cd "$(dirname "${BASH_SOURCE[0]}")/../examples" && pwd)
[[ $name ]] || die "how is the recipe to be called? bash utils/new_recipe.sh NAME"
[[ $name =~ ^[A-Za-z][A-Za-z0-9_-]*$ ]] || die "$name: a name begins with a letter and has letters, digits, _ and - only"
[[ ! -e $examples/$name ]] || die "$examples/$name: is there already: choose another name, or remove it"
[[ $from =~ ^[A-Za-z0-9_-]+$ && -f $examples/$from/run.sh ]] ||
  die "--from $from: no such recipe; there are: $(cd "$examples" && printf '%s\n' */run.sh | sed 's|/run.sh||' | paste -sd ' ')"
config=$(sed -n 's/^config=\([^ ]*\).*/\1/p' "$examples/$from/run.sh")
[[ -f $examples/$from/$config ]] || die "$examples/$from/$config: no such file"

raw=FOLDER
[[ ! $table ]] || raw=TABLE
example() { # example COMMAND MEANING: a line of the header
  printf '#   %-55s%s' "$1" "$2"
}
header="\
# $name: a data set of your own. What it is, and how to train on it: $config
#
$(example "bash run.sh --raw $raw --stop-stage 0" "what is found there, and what will hurt")
$(example "bash run.sh --raw $raw" "train and evaluate, one model per fold")
$(example "bash run.sh --raw $raw --folds 1" "one fold alone")
$(example "bash run.sh --stage 4 --wav my.wav --folds 1" "what is to be heard in my.wav, by the model of fold 1")
#"

[[ ! $table ]] || read -r -d '' data <<'END' || true
data:
  # A table with a row per sound and a header: the file given as --raw. CSV, or with tabs or semicolons.
  layout: csv
  # {column} is its value in the row; of A | B, the first that is there counts. Paths are absolute, or begin with ~/,
  # or are relative to the table's folder.
  audio: "{filename} | {path} | {file} | {audio} | {wav}"  # or around it: "wav/{id}.wav"
  label: label | class | category  # the column of the class
  folds: 5  # parts with equal shares of every class; each is held out in turn (run.sh: --folds "1 2 3 4 5")
  # Where the table has them, in the place of `folds: 5`:
  # fold: fold    # column of the fold's number
  # split: split  # column with train, valid or test; then run.sh --folds test
  # Sounds that belong together (cut from one recording, said by one speaker) must not lie on both sides of a fold:
  # group: recording  # the column that says so
  # Several labels, times in long files, splits of your own: docs/new_dataset.md
  clip_seconds: 5.0  # what the model sees at once: longer files are cropped and windowed, shorter ones padded
END

[[ $table ]] || read -r -d '' data <<'END' || true
data:
  # name: my sounds      # for people: it stands in README.md of each model's folder, the model's card
  # licence: CC BY 4.0   # of the sounds
  # A folder per class, in the folder given as --raw. WAV, FLAC, OGG, MP3 ..., any rate, channels and length, mixed.
  layout: folders
  audio: "{label}/{id}.*"  # the path of each file: {label} is its class, * stands for anything
  folds: 5  # parts with equal shares of every class; each is held out in turn (run.sh: --folds "1 2 3 4 5")
  # Files that belong together (cut from one recording, said by one speaker) must not lie on both sides of a fold.
  # If their names tell, as in dog/1234-b.wav, take these lines instead of the `audio` above:
  # audio: "{label}/{recording}-{part}.*"
  # group: recording
  # Tables, lists of files, splits of your own: docs/new_dataset.md
  clip_seconds: 5.0  # what the model sees at once: longer files are cropped and windowed, shorter ones padded
END

new=$(mktemp -d "$examples/.new.XXXXXX")
trap 'rm -rf "$new"' EXIT
mkdir "$new/${config%/*}"
width=$(sed -n '/^config=/s/#.*//p' "$examples/$from/run.sh") # where its comments begin
printf -v raw_line '%-*s# %s' ${#width} 'raw=' "${table:+table, or }folder of the data set"
printf -v folds '%-*s# %s' ${#width} 'folds="1 2 3 4 5"' 'folds to hold out, one model each'
awk -v header="$header" -v raw="$raw_line" -v folds="$folds" '
  NR == 2 { print header }
  /^# Stages:/ { kept = 1 }
  /^(raw|folds)=/ { print $1 == "raw=" ? raw : folds; next }
  NR == 1 || kept { print }
' "$examples/$from/run.sh" >"$new/run.sh"
{
  printf '# %s. Every key, its default and its meaning: local/paddletag/config.py\n\n' "$name"
  awk -v data="$data" '
    /^[^ #]/ { begun = 1; inside = /^data:/; if (inside) print data "\n" }
    begun && !inside { print }
  ' "$examples/$from/$config"
} >"$new/$config"
chmod 755 "$new" "$new/run.sh"
mv "$new" "$examples/$name"

place=$examples/$name
[[ $examples != "$PWD/examples" ]] || place=examples/$name # as short as it can be from where the user stands
cat <<END
made $place
1. say in $place/$config where the sounds are and what their names tell (docs/new_dataset.md)
2. bash $place/run.sh --raw $raw --stop-stage 0    what was found, and what will hurt
3. bash $place/run.sh --raw $raw                   train, evaluate and tag
END
