# Everything a fresh machine with Python 3.11+ needs is done by these targets: `make demo`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-capped test-wheel test-gpu test-npu test-clients android web bench gpu-bench lint types gpu-driver setup clean

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "pecore-litert needs Python 3.11 or newer: make PYTHON=python3.11 ..."; exit 1; }
	@df -Pk . | awk 'NR == 2 && $$4 < 14e6 { print "setting up takes 14 GB for a while, and this disk has", \
	  int($$4 / 1e6), "GB free: make room, or clone elsewhere"; exit 1 }'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

# Two conversions through every gate that can run, nothing downloaded: B16 with synthetic weights, and the trained tower
# of this package with its text side, which then names three drawings and finds one by words.
DRAWINGS := out/pe_drawings_tiny_96
SHOWN := taxi broom flamingo
SOUGHT := a sunset
demo: $(READY)
	$(BIN)/python convert_pecore.py --size B16 --weights synthetic
	$(BIN)/pecore labels --size B16 --weights synthetic --labels web_demo/labels.txt --out out/pe_core_base_224
	$(BIN)/python convert_pecore.py --size drawings-T16 --precision fp16,int8
	$(BIN)/python convert_pecore.py --size drawings-T16 --tower text
	$(BIN)/pecore labels --size drawings-T16 --labels tests/drawings/labels.txt --out $(DRAWINGS)
	$(BIN)/pecore embed tests/drawings/images --bundle $(DRAWINGS) --out out/drawings.lance
	$(BIN)/pecore classify --bundle $(DRAWINGS) --top 3 $(foreach name,$(SHOWN),tests/drawings/images/$(name)/*.png)
	$(BIN)/pecore search out/drawings.lance "$(SOUGHT)" --bundle $(DRAWINGS) --top 5 --save out/found.png
	$(BIN)/pecore cluster out/drawings.lance --k 8 --save out/clusters.png

# Everything that needs no GPU driver.
test: $(READY)
	$(BIN)/python -m pytest

# The numeric tests with the kernels of a lesser CPU, as far as variables reach (CONTRIBUTING.md).
CAPPED := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 OMP_NUM_THREADS=1 \
  OPENBLAS_CORETYPE=Haswell NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL AVX512_SPR"
NUMERIC := tests/rewrites \
  $(addprefix tests/convert/test_,$(addsuffix .py,checkpoint export label_embeddings meta quantize synthetic text_pipeline text_tower)) \
  $(addprefix tests/validate/test_,$(addsuffix .py,exactness headroom localize parity)) \
  $(addprefix tests/pecore/test_,$(addsuffix .py,bench encoder feature_maps runtime variants vectors))

test-capped: $(READY)
	$(CAPPED) $(BIN)/python -m pytest $(NUMERIC)

# The wheel without extras in an environment of its own, and beside another package's `validate`.
test-wheel: $(READY)
	scripts/test_wheel.sh $(BIN)/python

# The real GPU delegate; a software Vulkan driver will do: make gpu-driver.
test-gpu: $(READY)
	$(BIN)/python -m pytest -m gpu

# Qualcomm's compiler and simulator (docs/npu.md). Their licence is Qualcomm's, and using them is accepting it: read
# Qualcomm_LICENSE.pdf in the wheel onnxruntime-qnn, then PECORE_ACCEPT_QUALCOMM_LICENCE=1 make test-npu.
test-npu: $(READY)
	@if [ "$$PECORE_ACCEPT_QUALCOMM_LICENCE" != 1 ]; then echo "skipped: PECORE_ACCEPT_QUALCOMM_LICENCE is not 1"; \
	elif [ "$$(uname -sm)" != "Linux x86_64" ]; then echo "skipped: Qualcomm's compiler needs x86-64 Linux"; \
	else $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[npu]' && \
	  PECORE_REQUIRE_NPU=1 $(BIN)/python -m pytest -m npu; fi

# `pecore serve` with inference-sdk, openai, curl and Schemathesis, each in an environment of its own (docs/serve.md).
test-clients: $(READY)
	BIN=$(BIN) scripts/client_tests.sh

# The Android app, compiled and tested without Google's SDK (docs/android.md).
android:
	android_demo/ci/build.sh

# The web page, in Chromium; screenshots in build/web (docs/web.md).
web: $(READY)
	BIN=$(BIN) web_demo/ci.sh

# Measures this machine for docs/benchmarks.md and README.md; let it do nothing else (BENCH=--quick: whether it works).
bench: $(READY)
	rm -rf build/bench
	$(BIN)/python -m benchmarks $(BENCH)

# Measures a real Vulkan GPU for docs/benchmarks.md, in under ten minutes (GPU_BENCH=--quick: whether it works).
gpu-bench: $(READY)
	$(BIN)/python -m benchmarks.gpu $(GPU_BENCH)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

gpu-driver:
	scripts/install_gpu_driver.sh

clean:
	rm -rf $(VENV) out build *.egg-info .pytest_cache .mypy_cache .ruff_cache
