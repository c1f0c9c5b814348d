#!/usr/bin/env bash
# Every run behind the README, in the order of its table: results/<row>/seed<n>/ gets config.json and log.jsonl.
#   bash results/reproduce.sh                 all rows but the gpu ones, one after the other (some hours on two cores)
#   bash results/reproduce.sh multiply-4 star just these
# The rl-hops-4-warm-* rows start from the first seed of rl-warm-*, and search, jacobi and probe rows from the same seed (SEED) of the row
# their --ckpt names: those must have run before them, in this folder.
# ROW_SEEDS, ROW_JOBS: which seeds (default 1337 1338 1339), how many runs side by side (default 1).
set -euo pipefail
cd "$(dirname "$0")/.."

rows() { # name, script, its arguments
  cat <<'ROWS'
cycle-20 train_cot.py --hops 4
cycle-20-deep train_cot.py --hops 4 --mode direct --n_layer 6 --batch_size 128 --steps 10000
cycle-40 train_cot.py --nodes 40 --hops 1-5
cvpr-100 train_cot.py --task cvpr --nodes 100 --hops 30
pairs-16 train_cot.py --format pairs --nodes 16 --hops 4
multiply-3 train_cot.py --task multiply --digits 3
multiply-4 train_cot.py --task multiply --digits 4
star train_cot.py --task star --star 2,3
star-reverse train_cot.py --task star --star 2,3 --reverse
direct-1-2 train_cot.py --mode direct --hops 1-2 --nodes 10 --n_layer 3 --batch_size 256 --lr 2e-3 --steps 3000
hops-chain train_cot.py --mode cot --hops 1-6 --nodes 10 --batch_size 256 --lr 1e-3 --steps 6000 --n_layer 1 --n_embd 128
hops-direct-1 train_cot.py --mode direct --hops 1-6 --nodes 10 --batch_size 256 --lr 1e-3 --steps 6000 --n_layer 1 --n_embd 128
hops-direct-2 train_cot.py --mode direct --hops 1-6 --nodes 10 --batch_size 256 --lr 1e-3 --steps 6000 --n_layer 2 --n_embd 90
hops-direct-4 train_cot.py --mode direct --hops 1-6 --nodes 10 --batch_size 256 --lr 1e-3 --steps 6000 --n_layer 4 --n_embd 64
hops-loop-2 train_cot.py --mode direct --hops 1-6 --nodes 10 --batch_size 256 --lr 1e-3 --steps 6000 --n_layer 1 --n_embd 128 --n_loop 2
hops-loop-4 train_cot.py --mode direct --hops 1-6 --nodes 10 --batch_size 256 --lr 1e-3 --steps 6000 --n_layer 1 --n_embd 128 --n_loop 4
rl-loo train_rl.py
rl-hops-4 train_rl.py --hops 4
rl-none train_rl.py --baseline none
rl-ema train_rl.py --baseline ema
rl-prefix train_rl.py --baseline prefix
rl-passk train_rl.py --objective passk
rl-cot train_cot.py --mode cot --nodes 10 --hops 1-4 --eval_interval 5 --steps 200
rl-collapse train_rl.py --lr 4e-3 --entropy 0
rl-warm-40 train_cot.py --mode cot --nodes 10 --hops 4 --steps 40
rl-warm-50 train_cot.py --mode cot --nodes 10 --hops 4 --steps 50
rl-hops-4-warm-40 train_rl.py --hops 4 --init_from out/results/rl-warm-40/seed1337/ckpt.pt
rl-hops-4-warm-50 train_rl.py --hops 4 --init_from out/results/rl-warm-50/seed1337/ckpt.pt
rl-20 train_rl.py --nodes 20 --hops 1-6 --curriculum --steps 2000
rl-20-uniform train_rl.py --nodes 20 --hops 1-6
rl-32 train_rl.py --nodes 32 --hops 1-8 --curriculum --entropy 0.03 --steps 5000 --log_interval 20
rl-mix-1 train_rl.py --hops 1 --steps 600 --log_interval 20
rl-mix-2 train_rl.py --hops 1-2 --steps 800 --log_interval 20
rl-mix-3 train_rl.py --hops 1-3 --steps 1000 --log_interval 20
rl-pairs-learned train_rl.py --format pairs --curriculum --entropy 0.05 --steps 3000 --test_hops 5-8
rl-pairs-rope train_rl.py --format pairs --curriculum --entropy 0.05 --steps 3000 --test_hops 5-8 --pos rope
rl-pairs-none train_rl.py --format pairs --curriculum --entropy 0.05 --steps 3000 --test_hops 5-8 --pos none
countdown train_cot.py --task countdown
search search.py --ckpt out/results/countdown/seedSEED/ckpt.pt
search-tot search.py --ckpt out/results/countdown/seedSEED/ckpt.pt --puzzles results/tot-100.txt
search-cycle-model train_cot.py --mode cot --hops 4 --steps 130
search-cycle search.py --ckpt out/results/search-cycle-model/seedSEED/ckpt.pt --k 64
search-multiply-model train_cot.py --mode cot --task multiply --steps 280
search-multiply search.py --ckpt out/results/search-multiply-model/seedSEED/ckpt.pt --k 64
jacobi-cycle-model train_cot.py --mode cot --hops 1-8
jacobi-cycle search.py --jacobi --ckpt out/results/jacobi-cycle-model/seedSEED/ckpt.pt
jacobi-multiply-model train_cot.py --mode cot --task multiply
jacobi-multiply search.py --jacobi --ckpt out/results/jacobi-multiply-model/seedSEED/ckpt.pt
jacobi-countdown search.py --jacobi --ckpt out/results/countdown/seedSEED/ckpt.pt
capacity-1 capacity.py
capacity-1-300 capacity.py --exposures 300
capacity-1-100 capacity.py --exposures 100
capacity-chain capacity.py --hops 2 --cot --smallest --n_layer 1
capacity-latent capacity.py --hops 2 --smallest --n_layer 1
capacity-loop capacity.py --hops 2 --sizes 20000,40000 --people 100 --n_layer 1 --n_loop 2
capacity-chain-2 capacity.py --hops 2 --cot --smallest
capacity-chain-2-600 capacity.py --hops 2 --cot --smallest --exposures 600 --steps 9600
capacity-flat capacity.py --hops 2 --sizes 8000,16000 --people 50,100,200 --n_layer 1
probe-model train_cot.py --mode direct --hops 1-2 --nodes 14 --n_layer 2 --n_head 2 --n_embd 32 --lr 4e-3 --steps 4000
probe probe.py --ckpt out/results/probe-model/seedSEED/ckpt.pt
probe-direct-model train_cot.py --mode direct --hops 1-3 --nodes 10 --n_layer 4 --batch_size 256 --lr 1.5e-3 --steps 6000
probe-direct probe.py --ckpt out/results/probe-direct-model/seedSEED/ckpt.pt
probe-loop-model train_cot.py --mode direct --hops 1-3 --nodes 10 --n_layer 1 --n_loop 4 --n_head 2 --batch_size 256 --lr 2e-3 --steps 5000
probe-loop probe.py --ckpt out/results/probe-loop-model/seedSEED/ckpt.pt
probe-chain-model train_cot.py --mode cot --hops 1-3 --nodes 10
probe-chain probe.py --ckpt out/results/probe-chain-model/seedSEED/ckpt.pt
probe-composer-model train_cot.py --task profiles --mode direct --people 27 --relations 16 --n_layer 1 --n_loop 4 --lr 2e-3 --weight_decay 1 --steps 6000
probe-composer probe.py --ckpt out/results/probe-composer-model/seedSEED/ckpt.pt
probe-memoriser-model train_cot.py --task profiles --mode direct --people 27 --relations 16 --n_layer 1 --n_loop 4 --lr 2e-3 --weight_decay 1 --steps 6000 --relabel
probe-memoriser probe.py --ckpt out/results/probe-memoriser-model/seedSEED/ckpt.pt
maze train_maze.py
maze-path train_maze.py --loss path --format adjlist --grid 3 --n_layer 2 --batch_size 32 --lr 5e-4 --steps 1000 --eval_interval 50
maze-full train_maze.py --loss full --format adjlist --grid 3 --n_layer 2 --batch_size 32 --lr 5e-4 --steps 1000 --eval_interval 50
maze-balanced train_maze.py --loss balanced --format adjlist --grid 3 --n_layer 2 --batch_size 32 --lr 5e-4 --steps 1000 --eval_interval 50
maze-path-fast train_maze.py --loss path --format adjlist --grid 3 --n_layer 2 --batch_size 32 --lr 2e-3 --steps 1000 --eval_interval 50
maze-full-fast train_maze.py --loss full --format adjlist --grid 3 --n_layer 2 --batch_size 32 --lr 2e-3 --steps 1000 --eval_interval 50
maze-balanced-fast train_maze.py --loss balanced --format adjlist --grid 3 --n_layer 2 --batch_size 32 --lr 2e-3 --steps 1000 --eval_interval 50
maze-size-full-4 train_maze.py --loss full --grid 4 --format adjlist --test_grid 3 --n_layer 2 --batch_size 32 --lr 1e-3 --steps 500
maze-size-full-34 train_maze.py --loss full --grid 3-4 --format adjlist --test_grid 3 --n_layer 2 --batch_size 32 --lr 1e-3 --steps 500
maze-size-path-4 train_maze.py --loss path --grid 4 --format adjlist --test_grid 3 --n_layer 2 --batch_size 32 --lr 1e-3 --steps 500
maze-size-path-34 train_maze.py --loss path --grid 3-4 --format adjlist --test_grid 3 --n_layer 2 --batch_size 32 --lr 1e-3 --steps 500
maze-loops-path train_maze.py --gen percolation --steps 2500 --eval_interval 100
maze-loops-graded train_maze.py --loss graded --gen percolation --steps 2500 --eval_interval 100
maze-mlmu train_maze.py --loss mlmu
maze-wilson-full train_maze.py --loss full --gen wilson --format adjlist --n_layer 3 --batch_size 64 --lr 2e-3 --steps 1000 --eval_interval 100
maze-wilson-path train_maze.py --loss path --gen wilson --format adjlist --n_layer 3 --batch_size 64 --lr 2e-3 --steps 1000 --eval_interval 100
maze-wilson-balanced train_maze.py --loss balanced --gen wilson --format adjlist --n_layer 3 --batch_size 64 --lr 2e-3 --steps 1000 --eval_interval 100
gpu-cycle-20 train_cot.py --device cuda --hops 4
gpu-multiply-5 train_cot.py --device cuda --task multiply --digits 5 --n_layer 3 --n_embd 256 --batch_size 512 --lr 1e-3 --steps 5000
gpu-star-2-5 train_cot.py --device cuda --task star --star 2,5 --nodes 50 --n_layer 6 --n_head 6 --n_embd 384 --batch_size 256 --lr 1e-4 --steps 20000
gpu-star-5-5 train_cot.py --device cuda --task star --star 5,5 --nodes 50 --n_layer 6 --n_head 6 --n_embd 384 --batch_size 256 --lr 1e-4 --steps 20000
gpu-rl-32 train_rl.py --device cuda --nodes 32 --hops 1-8 --curriculum --entropy 0.03 --steps 5000 --log_interval 20
gpu-countdown-5 train_cot.py --device cuda --task countdown --numbers 5 --n_layer 6 --n_head 8 --n_embd 256 --batch_size 512 --lr 1e-3 --steps 20000
gpu-search-5 search.py --device cuda --ckpt out/results/gpu-countdown-5/seedSEED/ckpt.pt
gpu-capacity capacity.py --device cuda --sizes 20000,53000,141000,376000,1000000
gpu-maze-path-5 train_maze.py --device cuda --loss path --grid 5 --format adjlist --pos rope --n_layer 12 --n_head 8 --n_embd 256 --batch_size 1024 --lr 1e-3 --steps 25000
gpu-maze-full-5 train_maze.py --device cuda --loss full --grid 5 --format adjlist --pos rope --n_layer 12 --n_head 8 --n_embd 256 --batch_size 1024 --lr 1e-3 --steps 25000
gpu-maze-mlmu-5 train_maze.py --device cuda --loss mlmu --grid 5 --format adjlist --pos rope --n_layer 12 --n_head 8 --n_embd 256 --batch_size 1024 --lr 1e-3 --steps 25000
gpu-maze-path-10 train_maze.py --device cuda --loss path --grid 10 --format adjlist --pos rope --n_layer 12 --n_head 8 --n_embd 256 --batch_size 1024 --lr 1e-3 --steps 25000
gpu-maze-mlmu-10 train_maze.py --device cuda --loss mlmu --grid 10 --format adjlist --pos rope --n_layer 12 --n_head 8 --n_embd 256 --batch_size 1024 --lr 1e-3 --steps 25000
ROWS
}

for name in "$@"; do
  rows | grep -q "^$name " || { echo "reproduce.sh: no row $name; there are: $(rows | cut -d" " -f1 | xargs)" >&2; exit 2; }
done
rows | while read -r name command; do
  if [ $# -gt 0 ]; then
    [[ " $* " == *" $name "* ]] || continue
  elif [[ $name == gpu-* ]]; then
    continue
  fi
  for seed in ${ROW_SEEDS:-1337 1338 1339}; do
    echo "$name/seed$seed python ${command//SEED/$seed} --seed $seed"
  done
done | xargs -P "${ROW_JOBS:-1}" -L1 bash -c 'set -euo pipefail
  "${@:1}" --out_dir "out/results/$0" | tail -n 1
  mkdir -p "results/$0" && cp "out/results/$0/config.json" "out/results/$0/log.jsonl" "results/$0"'
