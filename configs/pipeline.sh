#!/usr/bin/env bash
# All of the paper's stages in sequence, on embedded heads at quickstart size: general, teeth, compensation, then
# fine-tuning and PTI on one photo. Each stage resumes where it was stopped, and a finished one is passed over.
#
#   configs/pipeline.sh                              into runs/pipeline
#   configs/pipeline.sh DIRECTORY --config.data.head=ict --config.data.ict=PATH
#   STEPS=4 configs/pipeline.sh DIRECTORY            a few steps of each, to see that they run
#
# Options go to every stage. The teeth stage runs for its mechanics alone: GFPGAN's weights are not free to ship, a random
# network takes their place, and what it makes of the teeth is no better. So the later stages start from the general run.
# With weights (`nofa weights fetch gfpgan`, then as that says) RESTORER=gfpgan makes them start from the teeth run.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-runs/pipeline}
shift || true
python=${PYTHON:-python}
restorer=${RESTORER:-untrained}
base=$out/general
[ "$restorer" = untrained ] || base=$out/teeth

stage() {  # stage NAME CONFIG OPTION…
    local name=$1 config=$2
    shift 2
    echo "== $name"
    "$python" train.py --config="$config" --workdir="$out/$name" "$@" ${STEPS:+--config.train.steps="$STEPS"}
}

stage general configs/quickstart.py "$@"
stage teeth configs/teeth.py:quickstart --config.init_from.run="$out/general" --config.train.restorer="$restorer" "$@"
stage compensation configs/compensation.py:quickstart --config.init_from.run="$base" "$@"
stage finetune configs/finetune.py:quickstart --config.init_from.run="$out/compensation" "$@"
stage pti configs/pti.py:quickstart --config.init_from.run="$base" "$@"
