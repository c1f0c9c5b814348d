#!/usr/bin/env bash
# Every run behind the tables and figures of the documents.
#
#   bash results/reproduce.sh --list                  the rows
#   bash results/reproduce.sh train_cot/cycle-20      one row, or several
#   bash results/reproduce.sh                         all but the gpu rows (hours on two cores)
#
# A row is run with each seed in ROW_SEEDS (default: 1337 1338 1339), and ROW_JOBS runs go on side
# by side (default: 1). The files of a run are in out/logs/<row>/seed<n>. Its config.json and
# log.jsonl, and its examples.json if it has one, are copied to results/logs/<row>/seed<n>.
#
# Where a command names a checkpoint in out/logs, that row must have run before. SEED stands for the
# seed of the run itself.
set -euo pipefail
cd "$(dirname "$0")/.."


# -----------------------------------------------------------------------------
# settings that several rows share

models=out/logs/train_cot
deep="--mode direct --n_layer 6 --n_head 2 --batch_size 128 --lr 2e-3 --steps 4000"
deep="$deep --eval_interval 1000"
direct="--nodes 10 --hops 1-2 --n_layer 3 --batch_size 256 --lr 2e-3 --steps 3000"
hops="--nodes 10 --hops 1-4 --batch_size 64 --steps 10000 --eval_interval 500"
hops_loops="--mode direct $hops --n_layer 1 --n_embd 64"
hops_layers="--mode direct $hops"
flat="--hops 2 --sizes 8000,16000 --people 50,100,200"
compose="--hops 2 --attributes 4 --relations 16 --exposures 150 --steps 1800"
ratio="$compose --smallest --people 14"
compose="$compose --people 14,28 --sizes 5000,15000"
loops_4_decay="--n_layer 1 --n_loop 4 --weight_decay 0.3 --lr 4e-2"
dilute="--mode direct --nodes 40 --n_head 4 --lr 1e-3"
faith="--nodes 10 --hops 1-3 --n_head 2 --batch_size 256"
faith_layers="$faith --n_layer 4 --lr 1.5e-3"
faith_loop="$faith --n_layer 1 --n_loop 4 --lr 2e-3"
latent_hard="token,soft,hidden,straight_through,pause"
latent_longer="--feed token,soft,hidden --test_hops 5-9"
latent_20="--feed token,soft,hidden,pause --nodes 20 --hops 1-6 --steps 1500"
latent_layers="--feed soft,hidden --steps 800 --lr 2e-3 --eval_interval 40"
latent_fixed="--feed pause,direct --steps 6000 --lr 2e-3 --eval_interval 200 --batch_size 128"
rl_free="--free_length 6 --n_head 2 --steps 1000"
rl_multiply="--task multiply --batch_size 64 --lr 3e-4 --entropy 0 --pass_k 256"
rl_after_220="$rl_multiply --steps 300 --init_from $models/multiply-220-model/seedSEED/ckpt.pt"
rl_after_200="$rl_multiply --steps 300 --init_from $models/multiply-200-model/seedSEED/ckpt.pt"
puzzles="--pass_k 64 --init_from $models/countdown-half/seedSEED/ckpt.pt"
puzzles_shown="--pass_k 64 --steps 1 --init_from $models/countdown-3000/seedSEED/ckpt.pt"
puzzles_others="--targets 10-23,25-100 --entropy 0 --group_size 16 --steps 160"
beam="--method beam --puzzles results/tot-100.txt"
played=out/logs/train_puzzles
rl_after_520="$rl_multiply --steps 1 --init_from $models/multiply-520-model/seedSEED/ckpt.pt"
rl_longer="--task multiply --batch_size 64 --lr 2e-4 --entropy 0 --pass_k 256 --steps 500"
rl_longer="$rl_longer --init_from $models"
rl_star="--task star --lr 3e-4 --entropy 0 --steps 600 --pass_k 64"
rl_star="$rl_star --init_from $models/star/seedSEED/ckpt.pt"
rl_pairs="--format pairs --curriculum --entropy 0.05 --steps 3000 --test_hops 5-8"
rl_32="--nodes 32 --hops 1-8 --curriculum --entropy 0.03 --steps 5000 --log_interval 20"
probe_2="--nodes 14 --hops 1-2 --n_layer 2 --n_head 2 --n_embd 32 --lr 4e-3 --steps 4000"
probe_direct="--mode direct --nodes 10 --hops 1-3 --batch_size 256"
pools="--measure pools --n_seeds 1"
longer="--arms written,direct --hops 4,6,8 --steps 1500 --smallest_pool 4"
probe_loop="--n_layer 1 --n_loop 4 --n_head 2 --lr 2e-3 --steps 5000"
probe_people="--task profiles --mode direct --people 27 --relations 16 --n_layer 1 --n_loop 4"
probe_people="$probe_people --lr 2e-3 --weight_decay 1 --steps 6000"
maze_3="--format adjlist --grid 3 --n_layer 2 --batch_size 32 --steps 1000 --eval_interval 50"
maze_size="--format adjlist --test_grid 3 --n_layer 2 --batch_size 32 --lr 1e-3 --steps 500"
maze_loops="--gen percolation --steps 2500 --eval_interval 100"
maze_wilson="--gen wilson --format adjlist --n_layer 3 --batch_size 64 --lr 2e-3 --steps 1000"
maze_wilson="$maze_wilson --eval_interval 100"
gpu_multiply="--task multiply --digits 5 --n_layer 3 --n_embd 256 --batch_size 512 --lr 1e-3"
gpu_multiply="$gpu_multiply --steps 5000"
gpu_countdown="--task countdown --numbers 5 --n_layer 6 --n_head 8 --n_embd 256 --batch_size 512"
gpu_countdown="$gpu_countdown --lr 1e-3 --steps 20000"
gpu_star="--task star --nodes 50 --n_layer 6 --n_head 6 --n_embd 384 --batch_size 256 --lr 1e-4"
gpu_star="$gpu_star --steps 20000"
gpu_maze="--format adjlist --pos rope --n_layer 12 --n_head 8 --n_embd 256 --batch_size 1024"
gpu_maze="$gpu_maze --lr 1e-3 --steps 25000"


# -----------------------------------------------------------------------------
# the rows: name, script, arguments

rows() {
  grep -v '^$' <<ROWS
train_cot/cycle-20 train_cot.py --hops 4
train_cot/deep-alone train_cot.py --hops 4 $deep
train_cot/deep-mixture train_cot.py --hops 1-4 $deep
train_cot/cycle-40 train_cot.py --nodes 40 --hops 1-5
train_cot/cvpr-100 train_cot.py --task cvpr --nodes 100 --hops 30
train_cot/pairs-16 train_cot.py --format pairs --nodes 16 --hops 4
train_cot/multiply-3 train_cot.py --task multiply --digits 3
train_cot/multiply-4 train_cot.py --task multiply --digits 4
train_cot/star train_cot.py --task star --star 2,3
train_cot/star-reverse train_cot.py --task star --star 2,3 --reverse
train_cot/direct-1-2 train_cot.py --mode direct $direct
train_cot/hops-chain train_cot.py --mode cot $hops --n_layer 1 --n_embd 64 --n_head 4 --lr 2e-3 --steps 2000
train_cot/hops-layers-1 train_cot.py $hops_loops --n_head 4 --lr 2e-3
train_cot/hops-loops-2 train_cot.py $hops_loops --n_loop 2 --n_head 2 --lr 1e-3
train_cot/hops-loops-4 train_cot.py $hops_loops --n_loop 4 --n_head 2 --lr 2e-3
train_cot/hops-loops-8 train_cot.py $hops_loops --n_loop 8 --n_head 4 --lr 1e-3
train_cot/hops-layers-2 train_cot.py $hops_layers --n_layer 2 --n_embd 44 --n_head 4 --lr 2e-3
train_cot/hops-layers-4-narrow train_cot.py $hops_layers --n_layer 4 --n_embd 32 --n_head 2 --lr 2e-3
train_cot/hops-layers-4-wide train_cot.py $hops_layers --n_layer 4 --n_embd 64 --n_head 2 --lr 1e-3
train_cot/dilute-one-hop train_cot.py $dilute --hops 1
train_cot/dilute-mixture train_cot.py $dilute --hops 1-5
train_cot/dilute-longer train_cot.py $dilute --hops 1-5 --steps 10000
train_cot/faith-chain-layers train_cot.py --mode cot $faith_layers --steps 1000 --eval_interval 20
train_cot/faith-mix-layers train_cot.py --mode mix $faith_layers --steps 6000 --eval_interval 200
train_cot/faith-chain-loop train_cot.py --mode cot $faith_loop --steps 1000 --eval_interval 20
train_cot/faith-mix-loop train_cot.py --mode mix $faith_loop --steps 4000 --eval_interval 200

train_rl/loo train_rl.py
train_rl/hops-4 train_rl.py --hops 4
train_rl/none train_rl.py --baseline none
train_rl/ema train_rl.py --baseline ema
train_rl/prefix train_rl.py --baseline prefix
train_rl/passk train_rl.py --objective passk
train_cot/rl-cot train_cot.py --mode cot --nodes 10 --hops 1-4 --eval_interval 5 --steps 200
train_rl/collapse train_rl.py --lr 4e-3 --entropy 0
train_cot/rl-warm-40 train_cot.py --mode cot --nodes 10 --hops 4 --steps 40
train_cot/rl-warm-50 train_cot.py --mode cot --nodes 10 --hops 4 --steps 50
train_rl/hops-4-warm-40 train_rl.py --hops 4 --init_from $models/rl-warm-40/seed1337/ckpt.pt
train_rl/hops-4-warm-50 train_rl.py --hops 4 --init_from $models/rl-warm-50/seed1337/ckpt.pt
train_rl/20 train_rl.py --nodes 20 --hops 1-6 --curriculum --steps 2000
train_rl/20-uniform train_rl.py --nodes 20 --hops 1-6
train_rl/32 train_rl.py $rl_32
train_rl/mix-1 train_rl.py --hops 1 --steps 600 --log_interval 20
train_rl/mix-2 train_rl.py --hops 1-2 --steps 800 --log_interval 20
train_rl/mix-3 train_rl.py --hops 1-3 --steps 1000 --log_interval 20
train_rl/pairs-learned train_rl.py $rl_pairs
train_rl/pairs-rope train_rl.py $rl_pairs --pos rope
train_rl/pairs-none train_rl.py $rl_pairs --pos none

train_rl/free-mixed train_rl.py $rl_free
train_rl/free-stages train_rl.py $rl_free --curriculum --length_cost 0.02 --entropy 0.03
train_rl/free-base train_rl.py --n_head 2 --test_hops 5-6
train_rl/free-warm train_rl.py $rl_free --init_from out/logs/train_rl/free-base/seed1337/ckpt.pt
train_cot/multiply-220-model train_cot.py --mode cot --task multiply --steps 220
train_rl/multiply train_rl.py $rl_after_220
train_cot/multiply-200-model train_cot.py --mode cot --task multiply --steps 200
train_rl/multiply-from-200 train_rl.py $rl_after_200
train_rl/multiply-right-only train_rl.py $rl_after_220 --baseline none
train_rl/multiply-coin train_rl.py $rl_after_220 --objective coin
train_cot/multiply-520-model train_cot.py --mode cot --task multiply --steps 520
train_rl/multiply-shown train_rl.py $rl_after_520
train_cot/multiply-270-model train_cot.py --mode cot --task multiply --steps 270
train_rl/multiply-from-270 train_rl.py $rl_longer/multiply-270-model/seedSEED/ckpt.pt
train_cot/multiply-280-model train_cot.py --mode cot --task multiply --steps 280
train_rl/multiply-from-280 train_rl.py $rl_longer/multiply-280-model/seedSEED/ckpt.pt
train_cot/multiply-210-model train_cot.py --mode cot --task multiply --steps 210
train_rl/multiply-from-210 train_rl.py $rl_longer/multiply-210-model/seedSEED/ckpt.pt
train_rl/star train_rl.py $rl_star
train_rl/star-coin train_rl.py $rl_star --objective coin

train_latent/default train_latent.py
train_latent/direct train_latent.py --feed direct
train_latent/loop train_latent.py --feed direct --n_loop 4
train_latent/hops-2 train_latent.py --hops 2 --steps 600
train_rl/hops-2 train_rl.py --hops 2
train_rl/one-hop-5 train_rl.py --hops 1-2 --one_hop 0.05 --steps 2500
train_rl/hops-2-heads train_rl.py --hops 2 --n_head 2
train_latent/hops-4 train_latent.py --feed $latent_hard --hops 4 --lr 2e-3 --steps 2500
train_latent/longer train_latent.py $latent_longer
train_latent/longer-shared train_latent.py $latent_longer --share_position
train_latent/20 train_latent.py $latent_20
train_latent/layers-2 train_latent.py $latent_layers --n_layer 2
train_latent/layers-4 train_latent.py $latent_layers --n_layer 4
train_latent/layers-2-fixed train_latent.py $latent_fixed --n_layer 2
train_latent/layers-4-fixed train_latent.py $latent_fixed --n_layer 4

train_cot/countdown train_cot.py --task countdown
train_cot/countdown-3000 train_cot.py --task countdown --holdout_targets 24,36,48,60 --steps 3000
train_puzzles/shown train_puzzles.py $puzzles_shown
train_cot/countdown-half train_cot.py --task countdown --holdout_targets 24,36,48,60 --steps 2000
train_puzzles/24 train_puzzles.py $puzzles
train_puzzles/others train_puzzles.py $puzzles $puzzles_others
train_puzzles/held-out train_puzzles.py $puzzles --targets 36,48,60
train_puzzles/right-only train_puzzles.py $puzzles --baseline none
train_puzzles/coin train_puzzles.py $puzzles --objective coin
search/puzzles-before search.py --ckpt $models/countdown-half/seedSEED/ckpt.pt $beam
search/puzzles-shown search.py --ckpt $models/countdown-3000/seedSEED/ckpt.pt $beam
search/puzzles-24 search.py --ckpt $played/24/seedSEED/ckpt.pt $beam
search/puzzles-others search.py --ckpt $played/others/seedSEED/ckpt.pt $beam
search/all search.py --ckpt $models/countdown/seedSEED/ckpt.pt
search/tot search.py --ckpt $models/countdown/seedSEED/ckpt.pt --puzzles results/tot-100.txt
search/best-first search.py --ckpt $models/countdown/seedSEED/ckpt.pt --method best_first
search/calibration search.py --ckpt $models/countdown/seedSEED/ckpt.pt --method calibration
search/budgets search.py --ckpt $models/countdown/seedSEED/ckpt.pt --method budgets
search/tree search.py --ckpt $models/countdown/seedSEED/ckpt.pt --show "4 9 10 13"
train_cot/search-cycle-model train_cot.py --mode cot --hops 4 --steps 130
search/cycle search.py --ckpt $models/search-cycle-model/seedSEED/ckpt.pt --k 64
train_cot/search-multiply-model train_cot.py --mode cot --task multiply --steps 280
search/multiply search.py --ckpt $models/search-multiply-model/seedSEED/ckpt.pt --k 64

train_cot/jacobi-cycle-model train_cot.py --mode cot --hops 1-8
jacobi/cycle jacobi.py --ckpt $models/jacobi-cycle-model/seedSEED/ckpt.pt
train_cot/jacobi-multiply-model train_cot.py --mode cot --task multiply
jacobi/multiply jacobi.py --ckpt $models/jacobi-multiply-model/seedSEED/ckpt.pt
jacobi/countdown jacobi.py --ckpt $models/countdown/seedSEED/ckpt.pt

capacity/1 capacity.py
capacity/1-300 capacity.py --exposures 300
capacity/1-100 capacity.py --exposures 100
capacity/chain capacity.py --hops 2 --cot --smallest --n_layer 1
capacity/latent capacity.py --hops 2 --smallest --n_layer 1
capacity/loop capacity.py --hops 2 --sizes 20000,40000 --people 100 --n_layer 1 --n_loop 2
capacity/chain-2 capacity.py --hops 2 --cot --smallest
capacity/chain-2-600 capacity.py --hops 2 --cot --smallest --exposures 600 --steps 9600
capacity/flat capacity.py $flat --n_layer 1
capacity/flat-relabel capacity.py $flat --n_layer 1 --relabel
capacity/compose-layers-1 capacity.py $compose --n_layer 1 --lr 4e-2
capacity/compose-layers-2 capacity.py $compose --n_layer 2
capacity/compose-layers-4 capacity.py $compose --n_layer 4
capacity/compose-layers-4-relabel capacity.py $compose --n_layer 4 --relabel
capacity/compose-loops-2 capacity.py $compose --n_layer 1 --n_loop 2 --lr 4e-2
capacity/compose-loops-4 capacity.py $compose --n_layer 1 --n_loop 4 --lr 4e-2
capacity/compose-layers-1-lr-2e-2 capacity.py $compose --n_layer 1
capacity/compose-loops-2-lr-2e-2 capacity.py $compose --n_layer 1 --n_loop 2
capacity/compose-loops-4-lr-2e-2 capacity.py $compose --n_layer 1 --n_loop 4
capacity/compose-layers-1-decay capacity.py $compose --n_layer 1 --weight_decay 0.3
capacity/compose-layers-2-decay capacity.py $compose --n_layer 2 --weight_decay 0.3
capacity/compose-layers-4-decay capacity.py $compose --n_layer 4 --weight_decay 0.3
capacity/compose-loops-2-decay capacity.py $compose --n_layer 1 --n_loop 2 --weight_decay 0.3
capacity/compose-loops-4-decay capacity.py $compose $loops_4_decay
capacity/ratio-layers-4 capacity.py $ratio --sizes 2000 --n_layer 4
capacity/ratio-layers-1 capacity.py $ratio --sizes 1500 --n_layer 1 --lr 4e-2
capacity/ratio-chain capacity.py $ratio --sizes 1500 --n_layer 1 --cot

scaling/quick scaling.py --quick
scaling/chains scaling.py $pools --arms written,soft
scaling/direct scaling.py $pools --arms direct --hops 1,2,4
scaling/loop scaling.py $pools --arms loop,narrow --hops 1,2,4
scaling/controls scaling.py $pools --arms useless,backwards --hops 1,2,4
scaling/widths scaling.py --measure widths --n_seeds 1 --arms written,soft --hops 1,4,8
scaling/budgets scaling.py --measure budgets --n_seeds 1
scaling/parity scaling.py --task parity --quick --hops 1,2,3,4 --smallest_pool 4
scaling/loss scaling.py --quick --arms written,soft --learned_by loss
scaling/parity-longer scaling.py --task parity --quick $longer

train_cot/probe-model train_cot.py --mode direct $probe_2
probe/default probe.py --ckpt $models/probe-model/seedSEED/ckpt.pt
train_cot/probe-direct-model train_cot.py $probe_direct --n_layer 4 --lr 1.5e-3 --steps 6000
probe/direct probe.py --ckpt $models/probe-direct-model/seedSEED/ckpt.pt
train_cot/probe-loop-model train_cot.py $probe_direct $probe_loop
probe/loop probe.py --ckpt $models/probe-loop-model/seedSEED/ckpt.pt
train_cot/probe-chain-model train_cot.py --mode cot --nodes 10 --hops 1-3
probe/chain probe.py --ckpt $models/probe-chain-model/seedSEED/ckpt.pt
train_cot/probe-composer-model train_cot.py $probe_people
probe/composer probe.py --ckpt $models/probe-composer-model/seedSEED/ckpt.pt
train_cot/probe-memoriser-model train_cot.py $probe_people --relabel
probe/memoriser probe.py --ckpt $models/probe-memoriser-model/seedSEED/ckpt.pt

train_maze/default train_maze.py
train_maze/path train_maze.py --loss path $maze_3 --lr 5e-4
train_maze/full train_maze.py --loss full $maze_3 --lr 5e-4
train_maze/balanced train_maze.py --loss balanced $maze_3 --lr 5e-4
train_maze/path-fast train_maze.py --loss path $maze_3 --lr 2e-3
train_maze/full-fast train_maze.py --loss full $maze_3 --lr 2e-3
train_maze/balanced-fast train_maze.py --loss balanced $maze_3 --lr 2e-3
train_maze/size-full-4 train_maze.py --loss full --grid 4 $maze_size
train_maze/size-full-34 train_maze.py --loss full --grid 3-4 $maze_size
train_maze/size-path-4 train_maze.py --loss path --grid 4 $maze_size
train_maze/size-path-34 train_maze.py --loss path --grid 3-4 $maze_size
train_maze/loops-path train_maze.py $maze_loops
train_maze/loops-graded train_maze.py --loss graded $maze_loops
train_maze/mlmu train_maze.py --loss mlmu
train_maze/wilson-full train_maze.py --loss full $maze_wilson
train_maze/wilson-path train_maze.py --loss path $maze_wilson
train_maze/wilson-balanced train_maze.py --loss balanced $maze_wilson

train_cot/gpu-cycle-20 train_cot.py --device cuda --hops 4
train_cot/gpu-multiply-5 train_cot.py --device cuda $gpu_multiply
train_cot/gpu-star-2-5 train_cot.py --device cuda --star 2,5 $gpu_star
train_cot/gpu-star-5-5 train_cot.py --device cuda --star 5,5 $gpu_star
train_rl/gpu-32 train_rl.py --device cuda $rl_32
train_cot/gpu-countdown-5 train_cot.py --device cuda $gpu_countdown
search/gpu-5 search.py --device cuda --ckpt $models/gpu-countdown-5/seedSEED/ckpt.pt
capacity/gpu capacity.py --device cuda --sizes 20000,53000,141000,376000,1000000
train_maze/gpu-path-5 train_maze.py --device cuda --loss path --grid 5 $gpu_maze
train_maze/gpu-full-5 train_maze.py --device cuda --loss full --grid 5 $gpu_maze
train_maze/gpu-mlmu-5 train_maze.py --device cuda --loss mlmu --grid 5 $gpu_maze
train_maze/gpu-path-10 train_maze.py --device cuda --loss path --grid 10 $gpu_maze
train_maze/gpu-mlmu-10 train_maze.py --device cuda --loss mlmu --grid 10 $gpu_maze
ROWS
}


# -----------------------------------------------------------------------------
# what was asked for

if [ "${1:-}" = --list ]; then
  rows
  exit
fi

for row in "$@"; do
  if ! rows | grep "^$row " > /dev/null; then  # not -q: it would leave before rows has ended
    echo "reproduce.sh: there is no row $row; bash results/reproduce.sh --list shows them" >&2
    exit 2
  fi
done


# one line for each run: its folder, then its command
runs() {
  rows | while read -r row command; do
    if [ $# -gt 0 ]; then
      [[ " $* " == *" $row "* ]] || continue
    elif [[ $row == */gpu* ]]; then
      continue
    fi
    for seed in ${ROW_SEEDS:-1337 1338 1339}; do
      echo "$row/seed$seed python ${command//SEED/$seed} --seed $seed"
    done
  done
}


# run it, show its last line, and copy what the documents read
run_one() {
  set -euo pipefail
  local folder=$1
  shift
  "$@" --out_dir "out/logs/$folder" | tail -n 1
  mkdir -p "results/logs/$folder"
  for file in config.json log.jsonl examples.json; do
    if [ -f "out/logs/$folder/$file" ]; then
      cp "out/logs/$folder/$file" "results/logs/$folder"
    fi
  done
}
export -f run_one

runs "$@" | xargs -P "${ROW_JOBS:-1}" -L1 bash -c 'run_one "$@"' run_one
