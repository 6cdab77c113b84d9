#!/usr/bin/env bash
# ESC-10 in small: 150 clips of 5 s, which lie in clips/, ten classes, 5 folds. Nothing to download.
#
#   bash run.sh                                            all five folds on the CPU
#   bash run.sh --folds 1 --nproc 2                        one fold, two processes on the CPU
#   bash run.sh --stage 4 --wav dog.wav --folds 1          what is to be heard in dog.wav, by the model of fold 1
#
# Stages: 0 prepare   1 features   2 train   3 evaluate   4 tag   5 parse
# A stage that is up to date is not run again.

# shellcheck disable=SC1091,SC2034,SC2154  # recipe.sh reads what is set here and sets what is read here
cd "$(dirname "$0")" || exit
stage=0               # first stage to run
stop_stage=5          # last stage to run
config=conf/mn04.yaml # backbone, training and augmentation
raw=clips             # folder of the data set
folds="1 2 3 4 5"     # folds to hold out, one model each
wav=                  # sound to tag in stage 4; empty: a clip of the fold that was held out
. ../../utils/recipe.sh

train_and_evaluate() {
  stage 2 train launch "$local/$trainer.py" --config "$config" --data "$data" --fold "$fold" --exp "$model" \
    --extend "$extend" --device "$device" "${overrides[@]}"
  stage 3 evaluate launch "$local/evaluate.py" --model "$model" --data "$data" --tta "$tta" --device "$device"
}

stage 0 prepare "$python" "$local/prepare.py" --config "$config" --raw "$raw" --data "$data" "${overrides[@]}"
stage 1 features launch "$local/extract_features.py" --config "$config" --data "$data" "${overrides[@]}"
each_fold train_and_evaluate
stage 3 summarize "$python" "$local/summarize.py" --exp "$exp" --folds "${fold_list[@]}" --seeds "${seed_list[@]}" \
  --tta "$tta"
stage 4 tag "$python" "$local/audio_tag.py" --model "$model" --wav "$wav" --data "$data" \
  --output_dir "$exp/tagging" --device "$device"
tagged=${wav##*/} # a folder's results are many, and so may be those of clips
[[ ! -d $wav ]] || tagged=
stage 5 parse "$python" "$local/parse_result.py" --tagging_file "$exp/tagging/${tagged:+${tagged%.*}.npz}" --top_k 5 \
  --output_dir "$exp/tagging"
