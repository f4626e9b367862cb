# The project's commands. `make` alone lists them.
#
# Each needs only what a fresh clone and a Rust toolchain give: scripts/dev-deps.sh installs the rest from
# Debian's packages when run as root, and otherwise prints the one line to run.

.DEFAULT_GOAL := help
.PHONY: help deps test lint checks fuzz images bench clean

# The test runner: nextest where it is installed, else cargo's own. Compiling nextest costs a fresh
# machine more than it saves.
ifneq ($(shell command -v cargo-nextest 2>/dev/null),)
TEST_RUNNER := tests/with-postgres.sh cargo nextest run --locked --all-targets --no-fail-fast
else
TEST_RUNNER := tests/with-postgres.sh cargo test --locked --all-targets --no-fail-fast
endif

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

deps: ## install what the tests need (Debian packages, as root)
	@scripts/dev-deps.sh test

test: deps lint images ## everything that must be green: lint, tests, checks
	cargo test --locked --doc
	$(TEST_RUNNER)
	@$(MAKE) --no-print-directory checks

lint: ## formatting, clippy with warnings denied, shell scripts, dependency policy
	cargo fmt --check
	shellcheck --external-sources --source-path=SCRIPTDIR .ci/run $$(git ls-files '*.sh')
	scripts/check-deps.py
	cargo clippy --locked --all-targets -- -D warnings

# Checks that are not Rust: a folder under tests/ with an executable check.sh is one.
checks: ## the checks outside Rust: generated clients, container files
	@for check in tests/*/check.sh; do echo "== $$check"; "$$check" || exit 1; done

fuzz: ## random layers, and random requests by the contract, for FUZZ_S seconds each (600); not a part of `make test`
	tests/fuzz/run.sh $${FUZZ_S:-600}
	FUZZ_S=$${FUZZ_S:-600} tests/clients/check.sh

images: ## the image that the end-to-end test pulls (cached; root makes it, once)
	scripts/make-images.sh target/images base

bench: ## measure beside nginx and docker-registry; prints Markdown tables
	@scripts/dev-deps.sh bench
	cargo build --locked --release
	benches/run.sh

clean: ## remove what was built, images and tools included
	cargo clean
