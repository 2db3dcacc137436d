# A thin front to meson and the scripts in tools/; `make help` lists the targets.
PYTHON ?= /usr/bin/python3
BUILD  ?= build
prefix ?= /usr/local

.PHONY: help deps build run build-for-check check check-long bench install clean

help:
	@echo "make deps        install what building and running need (Debian's packages, with sudo where needed)"
	@echo "make build       leave every program in $(BUILD)/bin/"
	@echo "make run         make a small Debian guest and boot it to a shell (without a terminal: it shows itself)"
	@echo "make check       run all tests that fit in 20 minutes"
	@echo "make check-long  run the long ones too"
	@echo "make bench       measure, beside native and qemu-system-x86_64 -accel tcg (CASES=a,b ROUNDS=3 VCPUS=1,2 QUICK=1 JSON=FILE)"
	@echo "make install     install under $(prefix) (DESTDIR is honoured)"
	@echo "make clean       remove $(BUILD)"

deps:
	tools/install_deps build run

build:
	tools/install_deps build
	tools/build $(BUILD)

run: build
	tools/install_deps run
	tools/demo $(BUILD)

build-for-check:
	tools/install_deps build run test
	tools/build $(BUILD) -Dtests=enabled

check: build-for-check
	$(PYTHON) tools/run_checks.py $(BUILD)

check-long: build-for-check
	tools/install_deps long
	$(PYTHON) tools/run_checks.py --long $(BUILD)

bench:
	tools/install_deps build run bench
	tools/build $(BUILD)
	$(PYTHON) tools/bench $(if $(CASES),--cases $(CASES)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
		$(if $(VCPUS),--vcpus $(VCPUS)) $(if $(QUICK),--quick) $(if $(JSON),--json $(JSON)) $(BUILD)

install: build
	tools/install_deps run
	meson install -C $(BUILD) --no-rebuild

clean:
	rm -rf $(BUILD) $(BUILD)-asan $(BUILD)-fuzz
