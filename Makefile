# The commands that a newcomer and CI need. They install what is missing, and say what they do.

.PHONY: help demo test versions e2e screenshots chaos mutations upgrade upgrade-dump docs bench bench-micro plots fuzz deb package-test lint doc supply-chain ci clean

help: ## What there is
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: ## The main job on a throw-away PostgreSQL, about half a minute (FOR=forever stays, with a page for a browser)
	@scripts/tools cargo cc $(if $(filter forever,$(FOR)),node npm)
	@bin=$$(scripts/postgres) && scripts/building && cargo build --quiet --locked --bin items-listen --example demo \
		$(if $(filter forever,$(FOR)),&& sockudo=$$(scripts/sockudo) && packages=$$(scripts/packages)) \
		&& PG_BINDIR=$$bin SOCKUDO=$${sockudo-} PACKAGES=$${packages-} FOR=$(FOR) exec "$$(scripts/target)/debug/examples/demo"

# They mostly wait: more of them at once than there are processors.
test: ## All tests, on a PostgreSQL that they start themselves
	@scripts/tools cargo cc
	@bin=$$(scripts/postgres) && pgbouncer=$$(scripts/pgbouncer) && faketime=$$(scripts/faketime) && promtool=$$(scripts/promtool) \
		&& analyze=$$(scripts/systemd-analyze) \
		&& PG_BINDIR=$$bin PGBOUNCER=$$pgbouncer LIBFAKETIME=$$faketime PROMTOOL=$$promtool SYSTEMD_ANALYZE=$$analyze \
		RUST_TEST_THREADS=$${RUST_TEST_THREADS:-6} cargo test --locked

VERSIONS ?= 14 16 17 18
# A base backup wants client programs of the server's own version.
OWN_CLIENTS = --skip standby

versions: ## The tests on other versions of PostgreSQL, from npm: VERSIONS="14 18" (not part of ci)
	@scripts/tools cargo cc node npm
	@failed=""; for version in $(VERSIONS); do \
		echo "==> PostgreSQL $$version"; \
		PG_BINDIR=$$(scripts/postgres-npm $$version) && export PG_BINDIR && PGBOUNCER=$$(scripts/pgbouncer) LIBFAKETIME=$$(scripts/faketime) \
			PROMTOOL=$$(scripts/promtool) SYSTEMD_ANALYZE=$$(scripts/systemd-analyze) RUST_TEST_THREADS=$${RUST_TEST_THREADS:-6} \
			cargo test --locked --test it -- $(OWN_CLIENTS) || failed="$$failed $$version"; \
	done; test -z "$$failed" || { echo "failed with PostgreSQL$$failed"; exit 1; }

e2e: ## The daemon against a real Sockudo, heard by pusher-js and laravel-echo; a page in a real Chromium
	@scripts/tools cargo cc node npm
	@cargo build --quiet --locked --bin items-listen --example demo
	@ITEMS_LISTEN_BIN="$$(scripts/target)/debug/items-listen" tests/e2e/run

screenshots: ## docs/images from a real daemon's status page in a real Chromium
	@scripts/tools cargo cc node npm
	@cargo build --quiet --locked --bin items-listen
	@mkdir -p docs/images
	@ITEMS_LISTEN_BIN="$$(scripts/target)/debug/items-listen" E2E_SCREENSHOTS="$(CURDIR)/docs/images" tests/e2e/run screenshots.mjs

SEED ?= 1
MINUTES ?= 1

chaos: ## The promise under every fault: SEED=1 MINUTES=1
	@scripts/tools cargo cc
	@PG_BINDIR=$$(scripts/postgres) cargo test --locked --features chaos --target-dir "$$(scripts/target)/chaos" --test chaos -- \
		--seed $(SEED) --minutes $(MINUTES)

mutations: ## Builds that are wrong on purpose: the chaos runner must notice each
	@scripts/tools cargo cc
	@PG_BINDIR=$$(scripts/postgres) cargo test --locked --features chaos --target-dir "$$(scripts/target)/chaos" --test chaos -- \
		--mutations yes

# The version before; and the first one whose own tests passed, which has the schema of the first commit.
PREVIOUS ?= ba179ae
FIRST ?= 79a05b5

upgrade: ## The version before and this one on one database, side by side (builds the former from the history)
	@scripts/tools cargo cc
	@bin=$$(scripts/postgres) && previous=$$(scripts/previous $(PREVIOUS)) && PG_BINDIR=$$bin PREVIOUS=$$previous \
		cargo test --locked --test it -- --ignored --exact upgrade::the_version_before_and_this_one_side_by_side_lose_nothing_and_double_nothing \
		upgrade::a_definition_that_is_changed_beside_the_version_before_loses_no_change

upgrade-dump: ## Makes tests/it/upgrade/first.sql anew: a database of the first version, with data in it
	@bin=$$(scripts/postgres) && first=$$(scripts/previous $(FIRST)) && PG_BINDIR=$$bin FIRST=$$first \
		cargo test --locked --test it -- --ignored --exact upgrade::write_the_dump_of_the_first_version

PAIRS ?= 5

bench: ## What it costs and carries, beside other programs: ONLY=writes,latency PAIRS=5 JSON=figures.json (about an hour)
	@scripts/tools cargo cc node npm
	@bin=$$(scripts/postgres) && peers=$$(scripts/peers) && PG_BINDIR=$$bin PEERS=$$peers cargo bench --locked --bench suite -- --pairs $(PAIRS) \
		$(if $(ONLY),--only $(ONLY)) $(if $(JSON),--json $(abspath $(JSON))) $(if $(QUICK),--quick)

plots: ## docs/plots from what bench wrote: JSON=figures.json
	@scripts/tools node
	@scripts/plots "$(JSON)" docs/plots

.PHONY: docs
docs: ## docs/configuration.md from src/config/keys.rs
	@cargo run --quiet --locked --bin items-listen -- config reference > docs/configuration.md.new
	@mv docs/configuration.md.new docs/configuration.md

fuzz: ## Every fuzz target for ten minutes (not part of ci)
	@scripts/fuzz

bench-micro: ## What the pure parts cost: classify, step, template, sign, encode, parse (ONLY=part of a name)
	@scripts/tools cargo cc
	cargo bench --locked --bench micro -- $(ONLY)

deb: ## The Debian package, into target/debian
	@scripts/tools cargo cc
	@scripts/deb

package-test: ## The Debian package installed, started, upgraded and purged, under a systemd of its own (root; not part of ci)
	@scripts/tools cargo cc
	@tests/packaging/run

lint: ## Formatting, clippy, rustdoc: warnings are errors
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --all-targets --features chaos -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

supply-chain: ## Licences, sources, unused and vulnerable dependencies, lock files
	@scripts/tools cargo cc
	@scripts/supply-chain

ci: ## What decides whether a submission lands
	bash .ci/run

clean: ## Remove what was built here
	cargo clean
