# Crier's commands. `make` alone prints them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

# Tests and the demo make network namespaces and load eBPF: their binaries run as root, the compiler does not.
HOST   := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
RUNNER := CARGO_TARGET_$(shell echo '$(HOST)' | tr 'a-z-' 'A-Z_')_RUNNER
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo 'sudo -E')
CARGO  := $(if $(AS_ROOT),$(RUNNER)='$(AS_ROOT)') cargo

.PHONY: help
help: ## Print this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  \033[1mmake %-15s\033[0m %s\n", $$1, $$2}'

.PHONY: demo
demo: ## Three nodes, a client and pods on this machine: watch a VIP move
	@hack/setup demo
	@echo "==> building the agent (a first build takes a few minutes)"
	@cargo build --release -p crier -p crierctl -p crier-e2e --bins
	@$(AS_ROOT) target/release/demo

.PHONY: test
test: ## Everything CI checks: lints, unit, property, simulation and namespace tests, the eBPF object, a short chaos run
	@hack/setup test
	@$(MAKE) --no-print-directory lint check-ebpf unit e2e
	@$(AS_ROOT) target/debug/chaos --short --rounds 1 --seed 1 --slack 2

.PHONY: build
build: ## Build the agent and crierctl (release)
	@cargo build --release -p crier -p crierctl

.PHONY: lint
lint: ## Formatting, clippy, documentation, the walls between the parts, licences
	@hack/lint

.PHONY: unit
unit: ## Unit, property and simulation tests, and what loads eBPF or opens raw sockets in namespaces of its own
	@$(CARGO) test -p crier-membership -p crier -p forwarder-ebpf -p crierctl

.PHONY: e2e
e2e: ## Scenarios: real agents on the testbed (needs root)
	@hack/kubernetes
	@hack/build-other
	@cargo build -p crier -p crierctl -p crier-e2e --bins
	@$(if $(AS_ROOT),$(RUNNER)='$(AS_ROOT)') hack/test-scenarios

.PHONY: test-kernels
test-kernels: ## The forwarder's tests on the oldest kernel that carries it and on a newer one, in virtual machines: KERNELS="6.1 6.12"
	@hack/setup kernels
	@hack/test-kernels

.PHONY: ebpf
ebpf: ## Build the kernel program and put its object in the tree
	@hack/build-ebpf

.PHONY: check-ebpf
check-ebpf: ## Verify that the object in the tree is what the source gives
	@hack/check-ebpf

.PHONY: bench
bench: bench-failover bench-vips bench-rest bench-forward ## All figures there are so far

.PHONY: bench-failover
bench-failover: ## The client's outage when the owner fails, side by side with keepalived: TRIALS=20, APPEND=1 goes on with a run
	@hack/setup bench
	@cargo build --release -p crier -p crierctl -p crier-e2e --bins
	@$(AS_ROOT) target/release/bench_failover trials --trials $${TRIALS:-20} $(if $(APPEND),--append)

.PHONY: bench-vips
bench-vips: ## The owner of 100 VIPs is cut off: the first and the last served again
	@hack/setup demo
	@cargo build --release -p crier -p crierctl -p crier-e2e --bins
	@$(AS_ROOT) target/release/bench_failover vips
	@$(AS_ROOT) target/release/bench_failover vips --everywhere --append

.PHONY: bench-rest
bench-rest: ## Nothing fails for a minute: requests lost, requests that reach pods twice
	@hack/setup demo
	@cargo build --release -p crier -p crierctl -p crier-e2e --bins
	@$(AS_ROOT) target/release/bench_failover soak --minutes 1 --stress 0 --out target/bench/rest.jsonl

.PHONY: bench-forward
bench-forward: ## What carrying packets costs: each program alone, real frames, side by side with iptables and nftables, a flood, a change: ROUNDS=7
	@hack/setup bench
	@cargo build --release -p crier -p crierctl -p crier-e2e --bins
	@for part in packets live wire flood update; do $(AS_ROOT) target/release/bench_forward $$part --rounds $${ROUNDS:-7}; done

.PHONY: bench-connections
bench-connections: ## Established connections while the owner is cut off, pods are added and a node is drained: CONNECTIONS=10000
	@hack/setup test
	@cargo build -p crier -p crierctl -p crier-e2e --bins
	@CONNECTIONS=$${CONNECTIONS:-10000} $(CARGO) test -p crier-e2e --test connections -- --nocapture

.PHONY: soak
soak: ## Nothing fails, all processors are loaded: false takeovers and what they cost: MINUTES=10 for each setting
	@hack/setup bench
	@cargo build --release -p crier -p crierctl -p crier-e2e --bins
	@$(AS_ROOT) target/release/bench_failover soak --check --minutes $${MINUTES:-10}

.PHONY: bench-table
bench-table: ## The tables of what the last benchmarks measured, also of runs that were interrupted
	@for kind in failover forward; do target/release/bench_$$kind table || true; done

.PHONY: chaos
chaos: ## Break clusters under traffic, report with plots: SEED=, ONLY=cut,flap, ROUNDS=5, SLACK=1, or random for MINUTES=
	@hack/setup chaos
	@cargo build --release -p crier -p crierctl -p crier-e2e --bins
	@$(AS_ROOT) target/release/chaos $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY)) \
	  $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SLACK),--slack $(SLACK)) $(if $(MINUTES),--random $(MINUTES))

.PHONY: fuzz
fuzz: ## Fuzz the codecs (needs cargo-fuzz and a nightly toolchain): SECONDS_EACH=60
	@hack/fuzz $${SECONDS_EACH:-60}
