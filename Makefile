# The whole project in a few words: `make demo` to see it work, `make test` to check it.
# Everything is installed into .venv; remove that folder (make clean) to start over.

PYTHON = python3
WORKERS = 2
ENVIRONMENT = .venv
BIN = $(ENVIRONMENT)/bin
# Threads that wait without spinning cost nothing alone and save a lot on a busy machine.
RUN = OMP_WAIT_POLICY=passive $(BIN)/python -m cascade

.PHONY: help demo demo-train default-model test gpu-check check fix install notebooks train-seg train-cls folds cascade report serve app image docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "Training takes EPOCHS= MODEL= BATCH= SEED= SIZE= CONFIG= DATA= FLAGS=, for instance"
	@echo "  make train-seg MODEL=resnet34 EPOCHS=30 DATA=dataset FLAGS=--resume"
	@echo "  make folds FOLDS=5 TTA=flips CONFIG=configs/neighbours/resnest50_128.yaml"
	@echo "cascade and report take BATCH= SEED= TTA= DATA= FLAGS=, and report, serve and app take"
	@echo "FILE= for the cascade to use. Another Python: make demo PYTHON=python3.12"

demo: $(ENVIRONMENT)/installed ## draw lesions, let the default cascade judge them, write a page (a minute)
	rm -rf demo
	$(RUN) prepare --source synthetic --count 40 --output demo/dataset
	$(RUN) predict demo/dataset/images_all --output demo/predictions --save_overlays
	$(RUN) evaluate --model models/default.safetensors --data_path demo/dataset \
		--output demo/results --save_overlays
	@echo
	@echo "Open demo/results/report.html. The lesions are invented: the numbers say nothing about patients."

demo-train: $(ENVIRONMENT)/installed ## draw lesions, train both stages on them, score them (minutes)
	rm -rf demo
	$(RUN) prepare --source synthetic --count 480 --output demo/dataset
	$(RUN) seg-train --config configs/demo_segmentation.yaml \
		--data_path demo/dataset --output demo/segmenter
	$(RUN) cls-train --config configs/demo_classification.yaml \
		--data_path demo/dataset --output demo/classifier
	$(RUN) calibrate --data_path demo/dataset \
		--segmenter demo/segmenter/best.safetensors \
		--classifier demo/classifier/best.safetensors --output demo/cascade.safetensors
	$(RUN) evaluate --data_path demo/dataset --model demo/cascade.safetensors \
		--output demo/results --save_overlays
	@echo
	@echo "Open demo/results/report.html. The lesions are invented: the numbers say nothing about patients."

default-model: $(ENVIRONMENT)/installed ## make models/default.safetensors again from DATA (hours on a CPU; resumes)
	$(RUN) default-model --data "$${DATA:?give DATA=FOLDER with isic/ and ham10000/}" \
		$${WEIGHTS:+--encoder_weights "$$WEIGHTS"} \
		$${CLASSIFIER_WEIGHTS:+--classifier_weights "$$CLASSIFIER_WEIGHTS"} --overwrite $$FLAGS

test: $(ENVIRONMENT)/installed-test ## check style and types, then run the tests
	@failed=0; \
	$(BIN)/ruff check . || failed=1; \
	$(BIN)/ruff format --check . || failed=1; \
	$(BIN)/mypy || failed=1; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal || failed=1; \
	exit $$failed

gpu-check: $(ENVIRONMENT)/installed-test ## on a machine with CUDA: its tests, its speed, docs/performance_gpu.md
	$(BIN)/python benchmarks/gpu_check.py

check: $(ENVIRONMENT)/installed-test ## check style and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(ENVIRONMENT)/installed-test ## repair style where a program can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(ENVIRONMENT)/installed ## make .venv with the library in it

notebooks: $(ENVIRONMENT)/installed-test ## run the notebooks
	$(BIN)/python -m pytest tests/test_notebooks.py

# A variable given to make is in the environment of the commands, so the shell can look at it.

train-seg: $(ENVIRONMENT)/installed ## train the segmenter; MODEL is its encoder
	$(BIN)/python scripts/seg_train_pipeline.py --config "$${CONFIG:-configs/segmentation.yaml}" \
		$${MODEL:+--encoder "$$MODEL"} $${EPOCHS:+--epochs "$$EPOCHS"} \
		$${BATCH:+--batch_size "$$BATCH"} $${SEED:+--seed "$$SEED"} \
		$${SIZE:+--image_size "$$SIZE"} $${DATA:+--data_path "$$DATA"} $$FLAGS

train-cls: $(ENVIRONMENT)/installed ## train the classifier; MODEL is its architecture
	$(BIN)/python scripts/classification_train_pipeline.py \
		--config "$${CONFIG:-configs/classification.yaml}" \
		$${MODEL:+--architecture "$$MODEL"} $${EPOCHS:+--epochs "$$EPOCHS"} \
		$${BATCH:+--batch_size "$$BATCH"} $${SEED:+--seed "$$SEED"} \
		$${SIZE:+--image_size "$$SIZE"} $${DATA:+--data_path "$$DATA"} $$FLAGS

folds: $(ENVIRONMENT)/installed ## cross-validate the classifier, five folds unless CONFIG or FOLDS says
	$(BIN)/python scripts/classification_train_pipeline.py --config configs/five_folds.yaml \
		--config "$${CONFIG:-configs/classification.yaml}" --output models/folds \
		$${FOLDS:+--folds "$$FOLDS"} $${TTA:+--tta "$$TTA"} \
		$${MODEL:+--architecture "$$MODEL"} $${EPOCHS:+--epochs "$$EPOCHS"} \
		$${BATCH:+--batch_size "$$BATCH"} $${SEED:+--seed "$$SEED"} \
		$${SIZE:+--image_size "$$SIZE"} $${DATA:+--data_path "$$DATA"} $$FLAGS

cascade: $(ENVIRONMENT)/installed ## join SEGMENTER and CLASSIFIER into models/cascade.safetensors and score them
	$(BIN)/python scripts/cascade_pipeline.py \
		--segmenter "$${SEGMENTER:-models/segmenter/best.safetensors}" \
		--classifier "$${CLASSIFIER:-models/classifier/best.safetensors}" \
		--save models/cascade.safetensors --overwrite $${TTA:+--tta "$$TTA"} \
		$${BATCH:+--batch_size "$$BATCH"} $${SEED:+--seed "$$SEED"} \
		$${DATA:+--data_path "$$DATA"} $$FLAGS

report: $(ENVIRONMENT)/installed ## score FILE (models/cascade.safetensors) on the test table, write report.html
	$(BIN)/python scripts/cascade_pipeline.py --model "$${FILE:-models/cascade.safetensors}" \
		--subgroups --save_overlays --overwrite $${TTA:+--tta "$$TTA"} \
		$${BATCH:+--batch_size "$$BATCH"} $${SEED:+--seed "$$SEED"} \
		$${DATA:+--data_path "$$DATA"} $$FLAGS

serve: $(ENVIRONMENT)/installed-serve ## answer HTTP requests with FILE (the default cascade) on this machine
	$(RUN) serve $${FILE:+--model "$$FILE"} $${TTA:+--tta "$$TTA"} $$FLAGS

app: $(ENVIRONMENT)/installed-serve ## open the page for FILE (the default cascade) on this machine
	$(RUN) app $${FILE:+--model "$$FILE"} $$FLAGS

image: ## build the container image IMAGE (cascade)
	docker build --tag "$${IMAGE:-cascade}" $$FLAGS .

docs: $(ENVIRONMENT)/installed-docs ## write the documentation site to build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "Open build/site/index.html."

clean: ## remove .venv, the demo and caches; never data, models or results
	rm -rf $(ENVIRONMENT) demo build cascade.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find cascade scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(ENVIRONMENT)/installed: setup.cfg pyproject.toml constraints.txt scripts/install.sh
	PYTHON="$(PYTHON)" sh scripts/install.sh $(ENVIRONMENT) .
	@touch $@

$(ENVIRONMENT)/installed-serve: setup.cfg pyproject.toml constraints.txt scripts/install.sh
	PYTHON="$(PYTHON)" sh scripts/install.sh $(ENVIRONMENT) '.[serve,app,explain]'
	@touch $(ENVIRONMENT)/installed $@

$(ENVIRONMENT)/installed-docs: setup.cfg pyproject.toml constraints.txt scripts/install.sh
	PYTHON="$(PYTHON)" sh scripts/install.sh $(ENVIRONMENT) '.[docs]'
	@touch $(ENVIRONMENT)/installed $@

$(ENVIRONMENT)/installed-test: setup.cfg pyproject.toml constraints.txt scripts/install.sh
	PYTHON="$(PYTHON)" sh scripts/install.sh $(ENVIRONMENT) '.[test,dicom,highdicom,heif,jxl,export,explain,serve,app,openvino,ray,tables,hub,hdf5,tensorboard,mlflow,wandb,completion,docs]'
	@touch $(ENVIRONMENT)/installed $(ENVIRONMENT)/installed-serve $(ENVIRONMENT)/installed-docs $@
