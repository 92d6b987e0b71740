# clrelay: `make demo` shows it at work, `make test` runs every test.

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS   = -s -w -X main.version=$(VERSION)
TOOL      = $(GO) tool -modfile=tools/go.mod
FUZZTIME ?= 1m

export CGO_ENABLED ?= 0

.PHONY: help build demo test unit system check bench fuzz faults soak deps clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/clrelay
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/clrelay ./cmd/clrelay

demo: build ## three nodes with load, an inbox and the ledger, live in the terminal (ARGS="--script failover --plain")
	bin/clrelay demo $(ARGS)

test: deps unit system ## everything that has to pass; installs what it needs

deps: ## Debian packages of the real peers (Postfix, swaks ...), where apt and root are there
	@sh test/deps.sh

unit: ## unit, dialogue, crash and simulation tests under the race detector
	CGO_ENABLED=1 $(GO) test -race -timeout 15m ./...

system: build ## real processes, real peers, plain binary
	$(GO) build -trimpath -tags clrelay_next -ldflags '$(LDFLAGS)-next' -o bin/clrelay-next ./cmd/clrelay
	CLRELAY_BIN=$(CURDIR)/bin/clrelay CLRELAY_NEXT=$(CURDIR)/bin/clrelay-next $(GO) test -count=1 -parallel 4 -timeout 20m ./test/system/...

ROUNDS   ?= 100
FOR      ?= 1h

faults: deps build ## hurt a cluster under load ROUNDS times, each fault in turn; as root with cut links and power (ARGS="-seed 7 -only kill")
	CLRELAY_BIN=$(CURDIR)/bin/clrelay $(GO) test -count=1 -v -timeout 4h -run TestFaults ./test/faults -rounds $(ROUNDS) -each $(ARGS)

soak: deps build ## the same at random, two faults at a time, for FOR
	CLRELAY_BIN=$(CURDIR)/bin/clrelay $(GO) test -count=1 -v -timeout 0 -run TestFaults ./test/faults -for $(FOR) -pairs $(ARGS)

check: lint-proto breaking-proto ## formatting, vet, staticcheck, generated files, architecture
	@out=$$(gofmt -l . ); test -z "$$out" || { echo "gofmt -w these: $$out"; exit 1; }
	$(GO) vet ./...
	GOARCH=arm64 $(GO) vet ./cmd/... ./internal/... ./smtpd/... ./spool/... ./delivery/...
	$(TOOL) staticcheck ./...
	$(GO) mod tidy -diff
	$(GO) test -count=1 .

bench: build ## compare with Postfix in the same run (ARGS="-sizes 10240 -sessions 100")
	$(GO) run ./test/bench $(ARGS)

fuzz: ## every fuzz target for FUZZTIME each
	GO="$(GO)" sh test/fuzz.sh $(FUZZTIME)

include Makefile.proto
include Makefile.deploy

clean: ## remove what was built
	rm -rf bin .bench
