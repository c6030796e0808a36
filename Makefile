# Every command a person needs; what each does is in scripts/.
.DEFAULT_GOAL := help
.PHONY: help build test lint docs demo demo-down bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

build: ## the release binary: target/release/clawfarm
	cargo build --release --bin clawfarm

test: ## set up what the tests need (a real OpenClaw from npm), and run them all
	@scripts/test

lint: ## formatting, clippy, dependencies, the repository's own checks, documentation
	@scripts/lint

docs: ## the crates' documentation: target/doc
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps

demo: ## from nothing to a real OpenClaw that answers, on this machine, without a key
	@scripts/demo up

demo-down: ## stop and remove what `make demo` made
	@scripts/demo down

bench: ## the figures of docs/benchmarks.md
	@scripts/bench

clean: ## remove what was built here
	cargo clean
