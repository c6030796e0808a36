# Every command a person needs; what each does is in scripts/.
.DEFAULT_GOAL := help
.PHONY: help build test lint docs rustdoc demo demo-down chaos chaos-inbox fuzz bench bench-compare integration-001 integration-001-run integration-002 clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-19s %s\n", $$1, $$2 }' Makefile

build: ## the release binary: target/release/clawfarm
	@scripts/build

test: ## set up what the tests need (a real OpenClaw from npm), and run them all
	@scripts/test

fuzz: ## longer runs of what the tests do briefly: FUZZ_SECS=60 a parser, then the API against its description
	@scripts/fuzz

lint: ## formatting, clippy, dependencies, the repository's own checks, the book
	@scripts/lint

docs: ## the book of docs/, its links checked: target/book/index.html
	@scripts/book

rustdoc: ## the crates' documentation: target/doc
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps

demo: ## from nothing to a real OpenClaw that answers, on this machine, without a key
	@scripts/demo up

demo-down: ## stop and remove what `make demo` made
	@scripts/demo down

chaos: ## two minutes of servers killed under load: 1,000 simulated instances on three servers
	@CLAWFARM_TEST_CHAOS=full scripts/test --no-capture -E 'test(e2e_three_servers)'

chaos-inbox: ## 10,000 webhooks to 20 simulated and 2 real claws while servers are killed
	@CLAWFARM_TEST_CHAOS=inbox scripts/test --no-capture -E 'test(e2e_three_servers_are_killed_while_services_send)'

bench: ## the figures of docs/benchmarks.md
	@scripts/bench

bench-compare: ## two commits in one run: make bench-compare A=main B=HEAD
	@scripts/bench-compare "$(A)" "$(B)"

integration-001: ## virtual machines: what is told and refused without one (INTEGRATION_IMAGE_REF=debian:12)
	@scripts/integration 001

integration-001-run: ## an OpenClaw in one answers, is suspended, resumed and removed
	@scripts/integration 001-run

integration-002: ## an image is had once, and each virtual machine has a disk of its own
	@scripts/integration 002

clean: ## remove what was built here
	cargo clean
