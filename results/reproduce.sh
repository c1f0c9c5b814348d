#!/usr/bin/env bash
# Every run behind the README, in the order of its table: results/<row>/seed<n>/ gets config.json and log.jsonl.
#   bash results/reproduce.sh                 all rows, one after the other (about two hours on two cores)
#   bash results/reproduce.sh multiply-4      one row
# ROW_SEEDS, ROW_JOBS: which seeds (default 1337 1338 1339), how many runs side by side (default 1).
set -euo pipefail
cd "$(dirname "$0")/.."

rows() { # name, then the arguments of train_cot.py
  cat <<'ROWS'
cycle-20 --hops 4
cycle-20-deep --hops 4 --mode direct --n_layer 6 --steps 10000
cycle-40 --nodes 40 --hops 1-5 --steps 2000
cvpr-100 --task cvpr --nodes 100 --hops 30
pairs-16 --format pairs --nodes 16 --hops 4
multiply-3 --task multiply --digits 3
multiply-4 --task multiply --digits 4
star --task star --star 2,3
star-reverse --task star --star 2,3 --reverse
direct-1-2 --mode direct --hops 1-2 --nodes 10 --n_layer 3 --batch_size 256 --lr 2e-3 --steps 3000
ROWS
}

rows | while read -r name arguments; do
  if [ $# -gt 0 ] && [[ " $* " != *" $name "* ]]; then continue; fi
  for seed in ${ROW_SEEDS:-1337 1338 1339}; do
    echo "python train_cot.py $arguments --seed $seed --out_dir results/$name/seed$seed"
  done
done | xargs -P "${ROW_JOBS:-1}" -I{} bash -c '{} | tail -n 1'
