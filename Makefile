# One command per artifact, the same by hand and in CI. `make demo` and `make test` need nothing before them.

.DEFAULT_GOAL := build
.PHONY: setup model build demo eval test test-python wheel test-python-example test-kotlin jar test-encryption test-swift check-library record-size check-targets interface test-gemma test-arm test-arm-quick test-vulkan test-peft against-trl lint doc dist dist-wheel dist-jar ci clean distclean help
SHELL := /bin/sh

export THUMBPRINT_TOOLS ?= $(CURDIR)/.venv
TARGET := $(or $(CARGO_TARGET_DIR),target)
THUMBPRINT = "$(TARGET)/release/thumbprint"
cargo = . "$$THUMBPRINT_TOOLS/env.sh" && cargo
# In CI a Cargo.lock that does not match is an error, not an edit.
locked := $(if $(CI),--locked)
library = libthumbprint_ffi.$(if $(filter Darwin,$(shell uname -s)),dylib,so)
# What only other languages need is built and tested by targets of its own.
ours := --workspace --exclude thumbprint-ffi

## demo: build, fetch the model, and watch it learn a person's taste (ARGS="--json --seed 2" for options)
demo: build model
	$(THUMBPRINT) demo $(ARGS)

## eval: build, fetch the model, and run the benchmark into bench-ci (ARGS="--size night --out DIR" for more)
eval: build model
	$(THUMBPRINT) eval personalize $(or $(ARGS),--size ci --out bench-ci)

## test: every test, on release code and the real model; then other languages' whose toolchain is here, in 30 minutes (without ARGS)
test: export THUMBPRINT_TEST_STARTED := $(shell date +%s)
test: setup model
	python3 -B scripts/test_scripts.py
	$(cargo) test --release $(ours) $(locked) $(ARGS)
	$(if $(ARGS),,scripts/test-others)

## test-python: builds the wheel, and tests it in a clean venv (ARGS="-k closing" for pytest)
test-python: setup model
	$(cargo) test --release $(locked) -p thumbprint-ffi
	. "$$THUMBPRINT_TOOLS/env.sh" && scripts/test-python $(ARGS)

## test-python-example: the wheel's example on fewer questions, a whole loop with the defaults (six minutes or more)
test-python-example: setup model
	. "$$THUMBPRINT_TOOLS/env.sh" && scripts/test-python -m example

## wheel: the Python wheel, for this machine's instruction set; prints its path
wheel: setup
	@. "$$THUMBPRINT_TOOLS/env.sh" && scripts/test-python --wheel

## test-kotlin: builds the jar and tests it, and compiles android/ against the framework (ARGS="-Dtest=ChatTest" for Maven)
test-kotlin: setup model
	. "$$THUMBPRINT_TOOLS/env.sh" && scripts/test-kotlin $(ARGS)

## jar: the jar for Kotlin on the JVM, for this machine's instruction set; prints its path
jar: setup
	@. "$$THUMBPRINT_TOOLS/env.sh" && scripts/test-kotlin --jar

## test-encryption: the store under a key, with SQLCipher over an OpenSSL of its own (minutes, once; needs perl)
test-encryption: setup
	$(cargo) test --release $(locked) -p thumbprint --features sqlcipher-vendored --lib $(ARGS) store::

## test-swift: checks the Swift package and what iOS needs over it, and tests both where there is a Swift (ARGS="--filter ChatTests")
test-swift: setup model
	. "$$THUMBPRINT_TOOLS/env.sh" && scripts/test-swift $(ARGS)

## check-library: size and alignment of the shared library that apps ship
check-library: setup
	$(cargo) build --release $(locked) -p thumbprint-ffi
	scripts/check-library "$(TARGET)/release/$(library)"

## record-size: records its size in ffi/size.txt
record-size: setup
	$(cargo) build --release $(locked) -p thumbprint-ffi
	scripts/check-library --record "$(TARGET)/release/$(library)"

## check-targets: type-checks the library for Android and iOS, which nothing here could link
check-targets: setup
	$(cargo) build --release $(locked) -p thumbprint-ffi
	scripts/check-targets $(ARGS)

## interface: records the interface for other languages in ffi/interface.txt, under a new number
interface: setup
	. "$$THUMBPRINT_TOOLS/env.sh" && THUMBPRINT_RECORD_INTERFACE=1 scripts/test-python -k interface

## test-gemma: the trainer and the whole loop on gemma-3-270m (253 MB, fetched; minutes)
test-gemma: setup
	model=$$(scripts/fetch-model gemma3) && export THUMBPRINT_GEMMA_MODEL="$$model" && $(cargo) test --release $(locked) -p thumbprint-tune -p thumbprint --test gemma -- --ignored --nocapture && $(cargo) test --release $(locked) -p thumbprint-tune --test memory -- --ignored gemma --nocapture

## build: target/release/thumbprint, for this machine's instruction set
build: setup
	$(cargo) build --release $(ours) $(locked)

## model: the demo model (98 MB), verified, in the cache folder
model: setup
	scripts/fetch-model

## test-arm: the trainer and what lies below it, built for aarch64 and run under qemu (minutes; ARGS to cargo test)
test-arm: setup
	scripts/test-arm $(ARGS)

## test-arm-quick: the same without its longest part, the comparisons of whole training steps on tiny models
test-arm-quick: setup
	scripts/test-arm -p thumbprint-ggml -p thumbprint-tune --lib --test graph --test ops --test gguf_adapters --test gguf_damaged --test gguf_malformed --test gguf_writing --test anchors

## test-vulkan: the trainer on a Vulkan device, which may be a software one (minutes; needs Vulkan's headers and glslc)
test-vulkan: setup
	scripts/test-vulkan $(ARGS)

## test-peft: PEFT and we read each other's adapters, TRL's trainers read our exports (installs into .venv-trl, gigabytes; minutes)
test-peft: build model
	python=$$(scripts/trl-python) && "$$python" -B -m unittest discover --verbose --start-directory tests/peers $(ARGS)

## against-trl: speed and memory against TRL and PEFT, installed into .venv-trl (gigabytes; ARGS="--json --rounds 5")
against-trl: build
	python3 -B bench/against_trl $(ARGS)

## lint: formatting and clippy, warnings denied
lint: setup
	cargo fmt --all --check
	$(cargo) clippy --release --workspace --all-targets $(locked) -- -D warnings

## doc: API documentation, warnings denied
doc: setup
	RUSTDOCFLAGS="-D warnings"; export RUSTDOCFLAGS; $(cargo) doc --release --workspace --no-deps $(locked)

## dist: a binary for every machine of this kind, in target-dist/release
# RUSTFLAGS replaces target-cpu=native of .cargo/config.toml; llama.cpp follows it (GGML_NATIVE=OFF and the same
# -march). x86-64-v3 is AVX2, FMA, F16C, BMI2: Intel since 2013, AMD since 2015. On aarch64 Linux llama.cpp is
# built for armv8-a, and on Apple silicon for the M1, whatever target-cpu says: none is given there.
machine := $(shell uname -m)
dist_flags := $(if $(filter x86_64 amd64,$(machine)),-C target-cpu=x86-64-v3)
dist: export RUSTFLAGS := $(dist_flags)
dist: export CARGO_PROFILE_RELEASE_STRIP := symbols
dist: setup
	unset CARGO_ENCODED_RUSTFLAGS; $(cargo) build --release --locked -p thumbprint-cli --target-dir target-dist
	@echo "target-dist/release/thumbprint"

## dist-wheel: the Python wheel for every machine of this kind; prints its path
dist-wheel dist-jar: export RUSTFLAGS := $(dist_flags)
dist-wheel dist-jar: export CARGO_TARGET_DIR := $(CURDIR)/target-dist
dist-wheel: setup
	@unset CARGO_ENCODED_RUSTFLAGS; . "$$THUMBPRINT_TOOLS/env.sh" && scripts/test-python --wheel

## dist-jar: the jar for Kotlin on the JVM for every machine of this kind; prints its path
dist-jar: setup
	@unset CARGO_ENCODED_RUSTFLAGS; . "$$THUMBPRINT_TOOLS/env.sh" && scripts/test-kotlin --jar

## ci: what the server runs
ci:
	.ci/run

## clean: what our own crates built; llama.cpp, the tools and the model stay
clean: setup
	$(cargo) clean --release $(locked) $$(sed -n 's/^name = "\(thumbprint[a-z-]*\)"/-p \1/p' Cargo.lock)

## distclean: everything built or installed inside this folder
distclean:
	rm -rf target target-dist .venv .venv-python .venv-swift .venv-swift-check

setup:
	@scripts/setup

help:
	@sed -n 's/^## //p' Makefile
