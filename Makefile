# Every command is a thin call of `python -m twinspire.train | export | serving`; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
ifeq ($(filter oneshell,$(.FEATURES)),)
$(error this is GNU make $(MAKE_VERSION); 4 or newer is needed, on macOS `brew install make`, and then gmake in place of make)
endif
.ONESHELL:
.PHONY: setup doctor data train export encode bench evaluate register promote drift refresh retrain rollback prune history serve \
        serve-http status search loadtest gatewaytest swaptest filtertest livetest remotetest looptest demo ui serve-mlflow test test-all \
        test-together test-quiet test-processors test-serving test-hostile dist held-out lint protos docs notebooks clean help

PYTHON ?= python3
CONFIG ?= train/configs/pydocs-small.toml
ALIAS  ?= champion
PORT   ?= 50051
HTTP_PORT ?= 8080
METRICS_PORT ?= 9464
UI_PORT ?= 5000
MODEL_PORT ?= 5001
SITE_PORT ?= 8000
K      ?= 10
NAME    = $(shell sed -n "s/^name *= *[\"']\([^\"']*\)[\"'].*/\1/p" $(CONFIG) 2>/dev/null | head -n 1)
# The variables of a list that were given on the command line, to repeat them in a suggested command.
SAME = $(strip $(foreach each,$(1),$(if $(filter command%,$(origin $(each))),$(each)=$($(each)))))
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
FOLDERS := protos train export serving
IMPORTS := .import/twinspire/serving
NAMED  := $(VENV)/.named
DOCS   := .cache/docs
PROCESSOR_TESTS := tests/train/models tests/train/evaluation tests/train/training/test_device.py tests/export/encoding \
                   tests/export/onnx tests/export/ann tests/serving/retrieval
# Compiled modules: NAME.c becomes _NAME.abi3.so beside it.
COMPILED := $(foreach each,$(wildcard protos/*/*.c),$(dir $(each))_$(basename $(notdir $(each))).abi3.so)

# With JSON=path the result goes there as one JSON document, whole or not at all.
define run
	$(if $(JSON),$(PY) -m $(1) --json $(2) > "$(JSON).part" || { rm -f "$(JSON).part"; exit 1; }
	mv "$(JSON).part" "$(JSON)",$(PY) -m $(1) $(2))
endef

define new_enough
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
	  echo "Twinspire needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2
	  echo "Name another with: make setup PYTHON=python3.12" >&2; exit 1; }
endef

# Where a recipe needs $(NAME), or the file itself, before Python can say that it is missing.
define configured
	[ -f "$(CONFIG)" ] || {
	  echo "error: CONFIG=$(CONFIG): there is no such file; experiments are in train/configs/" >&2; exit 2; }
endef

# After the last target that was asked for: that of the next stage, for the same experiment.
define next
	$(if $(filter $@,$(lastword $(MAKECMDGOALS))),echo "next: make $(strip $(1) $(call SAME,CONFIG))" >&2)
endef

# One recipe at a time: $(1) is a Python, $(2) says what another process may be doing, $(3) is a file to lock. The
# shell holds the lock on its descriptor 9 until it and what it started have ended. macOS has no flock(1).
# make removes the indentation of lines in a recipe, so this Python has none.
define LOCK
import fcntl, sys
wait = "another " + sys.argv[1] + " is at work here; waiting for it"
try: fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError: print(wait, file=sys.stderr, flush=True); fcntl.flock(9, fcntl.LOCK_EX)
endef
define alone
	exec 9< "$(3)"
	$(1) -c '$(LOCK)' "$(2)"
endef

# RANKS processes that train together. The first command makes the data set for all of them, and tells what is wrong
# in the TOML once.
LAUNCH = torch.distributed.run --standalone --local-addr 127.0.0.1 --nproc-per-node $(RANKS) -m
define ranks
	[[ "$(RANKS)" =~ ^[1-9][0-9]*$$ ]] || { echo "error: RANKS=$(RANKS): expected a whole number from 1 on" >&2; exit 2; }
	$(PY) -m twinspire.train data --config $(CONFIG) > /dev/null
	OMP_NUM_THREADS="$$($(PY) -c 'from twinspire.protos.system.cores import thread_count; print(thread_count(0, $(RANKS)))')"
	export OMP_NUM_THREADS
endef

setup: $(NAMED) $(COMPILED) ## make .venv with pip from pinned versions

# The name under which the folders import each other, and under which a wheel installs them: twinspire.train and so on.
$(IMPORTS):
	@mkdir -p $(@D)
	for each in $(FOLDERS); do ln -sfn ../../$$each $(@D)/$$each; done

$(NAMED): $(STAMP) | $(IMPORTS)
	@for each in $(VENV)/lib/python3*/site-packages; do
	  # Relative to that folder, so that a checkout can be moved, and one that shares .venv imports its own code.
	  [ ! -d "$$each" ] || echo "../../../../.import" > "$$each/twinspire.pth"
	done
	touch $@

$(STAMP): requirements.txt
	@$(new_enough)
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || {
	  echo "$(PYTHON) cannot make environments; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@command -v "$${CXX:-c++}" >/dev/null || command -v g++ >/dev/null || {
	  echo "hnswlib is compiled here and needs a C++ compiler, which is missing. To get one:" >&2
	  echo "  Debian, Ubuntu  apt-get install g++ python3-dev" >&2
	  echo "  Fedora          dnf install gcc-c++ python3-devel" >&2
	  echo "  macOS           xcode-select --install" >&2; exit 1; }
	@$(PYTHON) -c 'import pathlib, sys, sysconfig
	sys.exit(not (pathlib.Path(sysconfig.get_paths()["include"]) / "Python.h").is_file())' || {
	  echo "hnswlib needs the headers of Python; on Debian or Ubuntu: apt-get install python3-dev" >&2; exit 1; }
	@$(call alone,$(PYTHON),make setup,requirements.txt)
	@[ ! $(STAMP) -nt requirements.txt ] || exit 0 # the other one has made it
	@echo "making $(VENV): a minute or more, the first time" >&2
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@# pip shows no progress where its output is a file.
	@collected=0
	@$(PY) -m pip install --disable-pip-version-check --progress-bar off --no-compile -r requirements.txt |
	while read -r line; do
	  case "$$line" in
	    Collecting*) ((++collected % 20)) || echo "collecting: $$collected of about $$(grep -c '^[a-zA-Z]' requirements.txt)" ;;
	    Building*started) echo "$${line%% (*}" ;;
	    Installing*) echo "installing all of them" ;;
	  esac
	done >&2
	@echo "compiling all packages" >&2
	@# compileall uses all cores, pip only one. Folders named test or tests and the models of transformers are compiled
	@# when they are first imported. compileall fails on files that are templates.
	@$(PY) -m compileall -qq -j 0 -x 'site-packages/.*/tests?/|/transformers/models/' $(VENV)/lib || true
	@touch $(STAMP)

# The searches of vectors and of words; `pip install` compiles them by pyproject.toml.
protos/hybrid/_fusion.abi3.so: protos/hybrid/fusion.c
protos/nearest/_kernel.abi3.so: protos/nearest/kernel.c
$(COMPILED): | $(STAMP)
	@flags="$$($(PY) -c 'import sys, sysconfig
	print("-I" + sysconfig.get_paths()["include"], "-undefined dynamic_lookup" * (sys.platform == "darwin"))')"
	part="$@.$$$$.part"
	if $${CC:-cc} -O3 -ffp-contract=off -shared -fPIC $$flags $< -o "$$part" -lm; then mv "$$part" $@; else rm -f $@ "$$part"
	  echo "$< cannot be compiled here, so NumPy takes its place, which is many times as slow" >&2; fi

doctor: $(IMPORTS) ## what this machine lacks, and what to do about it, also before setup
	@$(if $(wildcard $(STAMP)),,$(new_enough))
	$(if $(wildcard $(STAMP)),$(PY),$(PYTHON)) -m twinspire.serving.doctor $(FLAGS) $(if $(JSON),--json > "$(JSON)")

data: setup ## read, check and split the data set of CONFIG; TABLES=folder also writes it as plain tables
	@$(call run,twinspire.train data,--config $(CONFIG) $(if $(REFRESH),--refresh) $(if $(TABLES),--tables "$(TABLES)"))
	$(call next,train)

train: setup ## train the towers, tracked in MLflow; RESUME=1 goes on with an interrupted run; RANKS=2 processes
	@$(if $(RANKS),$(ranks))
	$(call run,$(if $(RANKS),$(LAUNCH)) twinspire.train fit,--config $(CONFIG) $(if $(RESUME),--resume))
	$(call next,export)

export: setup ## towers to ONNX, vectors, index: a bundle of CONFIG's run, or else the newest, or of RUN
	@$(call run,twinspire.export bundle,--config $(CONFIG) $(if $(RUN),--run $(RUN)))
	$(call next,register)

encode: setup ## a table of ITEMS through the item tower of the newest bundle, or of BUNDLE, into OUTPUT; goes on after a kill
	@[ -n "$(ITEMS)" ] && [ -n "$(OUTPUT)" ] || {
	  echo 'say what and where: make encode ITEMS=items.parquet OUTPUT=vectors.npy' >&2; exit 2; }
	$(call run,twinspire.export encode,--config $(CONFIG) $(if $(BUNDLE),--bundle $(BUNDLE)) --items "$(ITEMS)" --output "$(OUTPUT)")

bench: setup ## latency of the newest bundle, or of BUNDLE: towers beside torch, retriever, loading
	@$(call run,twinspire.export bench,--config $(CONFIG) $(if $(BUNDLE),--bundle $(BUNDLE)))

evaluate: setup ## quality of the newest bundle, or of BUNDLE, on test split and judged queries
	@$(call run,twinspire.export evaluate,--config $(CONFIG) $(if $(BUNDLE),--bundle $(BUNDLE)))

register: setup ## the newest bundle, or BUNDLE, into the model registry as challenger
	@$(call run,twinspire.export register,--config $(CONFIG) $(if $(BUNDLE),--bundle $(BUNDLE)))
	$(call next,promote)

promote: setup ## make the challenger the champion, if all gates hold; FORCE=1 REASON="..." even if not
	@$(call run,twinspire.export promote,--config $(CONFIG) $(if $(FORCE),--force) $${REASON:+"--reason=$$REASON"})
	$(call next,serve)

drift: setup ## what a service was asked and its items beside those of training: LOG=folder SINCE=time UNTIL=time; fails if some have drifted
	@[ -n "$(LOG)" ] || { echo 'name the served log: make drift LOG=served' >&2; exit 2; }
	$(call run,twinspire.export drift,--config $(CONFIG) --served-log "$(LOG)" $(if $(SINCE),--since $(SINCE)) $(if $(UNTIL),--until $(UNTIL)))

refresh: setup ## a bundle of the champion's towers and the catalogue as it stands: CATALOGUE=url ITEMS=items.csv; goes on after a kill
	@$(call run,twinspire.export refresh,--config $(CONFIG) $(if $(CATALOGUE),--catalogue "$(CATALOGUE)") \
	  $(if $(ITEMS),--items "$(ITEMS)"))

retrain: setup ## train the champion on with newer data, promote the better towers: CATALOGUE=url; goes on after a kill
	@$(call run,twinspire.export retrain,--config $(CONFIG) $(if $(CATALOGUE),--catalogue "$(CATALOGUE)"))

rollback: setup ## make the champion before this one the champion again, or version TO=; REASON="..."
	@$(call run,twinspire.export rollback,--config $(CONFIG) $${TO:+"--to=$$TO"} $${REASON:+"--reason=$$REASON"})

prune: setup ## drop the collections on the server of Milvus or pgvector that no alias can come back to; DRY_RUN=1 only tells which
	@$(call run,twinspire.export prune,--config $(CONFIG) $(if $(DRY_RUN),--dry-run))

history: setup ## every promotion, refusal and rollback: who, when, from, to, on which evidence, why
	@$(call run,twinspire.export history,--config $(CONFIG))

serve: setup ## answer over gRPC on PORT, from the model with alias ALIAS, or from BUNDLE; FLAGS="--help"
	@$(if $(BUNDLE),,$(configured))
	exec $(PY) -m twinspire.serving serve --port $(PORT) --metrics-port $(METRICS_PORT) \
	  $(if $(WORKERS),--workers $(WORKERS)) $(FLAGS) \
	  $(if $(BUNDLE),--bundle $(BUNDLE),--model models:/$(NAME)@$(ALIAS)) $(if $(JSON),--json > "$(JSON)")

serve-http: setup ## HTTP and JSON on HTTP_PORT for the server on PORT: page, API and /docs; COMPARE=host:port FLAGS="--help"
	@exec $(PY) -m twinspire.serving gateway --address 127.0.0.1:$(PORT) --port $(HTTP_PORT) \
	  $(if $(COMPARE),--compare-address $(COMPARE)) $(FLAGS) $(if $(JSON),--json > "$(JSON)")

search: setup ## ask the server on PORT: make search Q="..." or HISTORY="id id id" [K=10] [FLAGS="--min-score 0.3"]
	@[ -n "$${Q:-}$${HISTORY:-}" ] || {
	  echo 'ask something: make search Q="read a CSV file", or HISTORY="id id id"' >&2; exit 2; }
	read -r -d '' -a ids <<< "$$HISTORY" || true
	history=()
	for id in $${ids[@]+"$${ids[@]}"}; do history+=("--history=$$id"); done
	$(call run,twinspire.serving search,--address 127.0.0.1:$(PORT) --k $(K) $(FLAGS) $${history[@]+"$${history[@]}"} -- $${Q:+"$$Q"})

loadtest: setup ## the service under load, beside a plain server and one that does nothing; BUNDLE= ONLY=closed ROUNDS=3
	@$(call run,tests.load loadtest,$(if $(BUNDLE),--bundle $(BUNDLE)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
	  $(if $(ONLY),--only $(ONLY)))

status: setup ## which bundles the server on PORT serves, what waits to be served, and what went wrong
	@$(call run,twinspire.serving status,--address 127.0.0.1:$(PORT))

gatewaytest: setup ## the gateway under load, beside gRPC; BUNDLE= ROUNDS= SECONDS=
	@$(call run,tests.load gatewaytest,$(if $(BUNDLE),--bundle $(BUNDLE)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
	  $(if $(SECONDS),--seconds $(SECONDS)))

looptest: setup ## the loop of events, retraining and release with made viewers of MovieLens: ROUNDS=10 VISITS=3 BAD=10 KILLS=20 ONLY=rounds,interleaving,intervals,events,log JSON=path
	@$(call run,tests.load looptest,$(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(VISITS),--visits $(VISITS)) \
	  $(if $(BAD),--bad $(BAD)) $(if $(KILLS),--kills $(KILLS)) $(if $(ONLY),--only $(ONLY)))

swaptest: setup ## two bundles swapped to and fro under load, every answer checked; BUNDLE= OTHER= SECONDS=60 SWAPS=10
	@$(call run,tests.load swaptest,$(if $(BUNDLE),--bundle $(BUNDLE)) $(if $(OTHER),--other $(OTHER)) \
	  $(if $(CLIENTS),--clients $(CLIENTS)) $(if $(SECONDS),--seconds $(SECONDS)) \
	  $(if $(SWAPS),--swaps $(SWAPS)) $(if $(WORKERS),--workers $(WORKERS)))

filtertest: setup ## searches with filters, of the newest bundle or of BUNDLE: recall, plans and times by the share that passes
	@$(call run,tests.load filtertest,$(if $(BUNDLE),--bundle $(BUNDLE)) $(if $(QUERIES),--queries $(QUERIES)))

remotetest: setup ## a host with ITEMS=1000000 on a vector database against one with 100,000, and a swap under load; ENGINE=pgvector SECONDS=60 JSON=path
	@$(call run,tests.load remotetest,$(if $(ENGINE),--engine $(ENGINE)) $(if $(ITEMS),--items $(ITEMS)) \
	  $(if $(CLIENTS),--clients $(CLIENTS)) $(if $(SECONDS),--seconds $(SECONDS)))

livetest: setup ## live items under load, kills and swaps: BUNDLE= OTHER= ONLY=history,swap,load OPERATIONS= KILLS= SERVICES= CATALOGUE= CONFIG=
	@$(call run,tests.load livetest,$(if $(BUNDLE),--bundle $(BUNDLE)) $(if $(OTHER),--other $(OTHER)) \
	  $(if $(ONLY),--only $(ONLY)) $(if $(OPERATIONS),--operations $(OPERATIONS)) $(if $(KILLS),--kills $(KILLS)) \
	  $(if $(SERVICES),--services $(SERVICES)) $(if $(CATALOGUE),--catalogue $(CATALOGUE)) \
	  $(if $(filter command%,$(origin CONFIG)),--config $(CONFIG)) \
	  $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SECONDS),--seconds $(SECONDS)))

demo: setup ## everything: data, training, export, registry, a server, example queries, a summary
	@$(configured)
	$(call alone,$(PY),make demo of $(NAME),$(CONFIG))
	step() { printf '\n%s\n' "$$1"; }
	step "1/6  data";     $(PY) -m twinspire.train data --config $(CONFIG)
	step "2/6  training"; $(PY) -m twinspire.train fit --config $(CONFIG)
	step "3/6  bundle";   $(PY) -m twinspire.export bundle --config $(CONFIG)
	step "4/6  registry"; $(PY) -m twinspire.export register --config $(CONFIG); $(PY) -m twinspire.export promote --config $(CONFIG)
	step "5/6  service";  $(call run,twinspire.serving demo,--model models:/$(NAME)@champion)
	printf '%s\n' "" "next" \
	  "  make serve $(call SAME,CONFIG PORT)  # answers on port $(PORT), until Ctrl-C; the others in a second terminal" \
	  "  make serve-http $(call SAME,PORT HTTP_PORT)   # a page to try it: http://127.0.0.1:$(HTTP_PORT)" \
	  '  make search $(call SAME,PORT) $(if $(shell grep -s 'kind *= *"history"' $(CONFIG)),HISTORY="id id id",Q="...")'

ui: setup ## the MLflow UI on UI_PORT, or the address of that of the server in MLFLOW_TRACKING_URI
	@case "$${MLFLOW_TRACKING_URI:-}" in http://*|https://*) # a server has its own UI; a password stays untold
	  sed -E 's|//[^/]*@|//|; s|/*$$|/#/experiments?workflowType=machine_learning|' <<< "$$MLFLOW_TRACKING_URI" >&2
	  exit 0 ;;
	esac
	echo "http://127.0.0.1:$(UI_PORT)/#/experiments?workflowType=machine_learning" >&2
	exec $(VENV)/bin/mlflow ui --host 127.0.0.1 --port $(UI_PORT) \
	  --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///$(CURDIR)/mlruns/mlflow.db}"

serve-mlflow: setup ## JSON over HTTP on MODEL_PORT: `mlflow models serve` of the model with alias ALIAS
	@$(configured)
	uri="models:/$(NAME)@$(ALIAS)"
	$(PY) -m twinspire.serving.bundles "$$uri" "$${TWINSPIRE_CACHE:-$(CURDIR)/.cache}/bundles" >/dev/null # or says why not
	echo "POST http://127.0.0.1:$(MODEL_PORT)/invocations answers $$uri" >&2
	export PATH="$(CURDIR)/$(VENV)/bin:$$PATH" # mlflow looks for uvicorn there
	export MLFLOW_TRACKING_URI="$${MLFLOW_TRACKING_URI:-sqlite:///$(CURDIR)/mlruns/mlflow.db}"
	exec mlflow models serve --model-uri "$$uri" --env-manager local --host 127.0.0.1 --port $(MODEL_PORT)

# One process more than there are cores, since tests also wait.
PROCESSES ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )))
test: setup ## the tests that find most faults, offline; TESTS="tests/serving -x" for some of them
	@$(if $(TESTS),$(PY) -m pytest $(TESTS),$(PY) -m pytest -m "not exhaustive" -n $(PROCESSES) --dist worksteal)

test-all: setup ## all tests: also fuzzing, fault injection, killed processes, and every command of the READMEs
	@$(MAKE) --no-print-directory test-together
	$(MAKE) --no-print-directory test-quiet

# Twice the cores: half of the time of these tests goes by in waiting, for services and for disks.
TOGETHER ?= $(shell echo $$(( 2 * $$(getconf _NPROCESSORS_ONLN) )))
test-together: setup ## the part of test-all that runs in parallel
	@$(PY) -m pytest -m "not quiet" -n $(TOGETHER) --dist worksteal

test-quiet: setup ## the tests of test-all that would fail on a busy machine, two at a time
	@$(PY) -m pytest -m quiet -n 2 --dist worksteal $$(grep -rl "mark\.quiet" tests --include="test_*.py") # importing all takes longer

# The libraries take the kernels of a processor with AVX2 and nothing newer. The plugin rounds vectors differently in
# batches of different sizes, so a test that needs equal bits of two batches fails on every processor.
test-processors: setup ## the tests of towers, encoders and searches as on another processor; x86-64 with AVX2
	@ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 OPENBLAS_CORETYPE=Haswell \
	  $(PY) -m pytest -p tests.helpers.rounding -m "not exhaustive" -n logical --dist worksteal $(PROCESSOR_TESTS)

test-serving: ## client, service and gateway, each installed alone, without torch and MLflow
	@unset PYTHONPATH # what is installed is tested, not this checkout
	bare="$$(mktemp -d)"; trap 'rm -rf "$$bare"' EXIT
	mkdir "$$bare/source" # what is built there is not beside other runs of tests
	cp pyproject.toml setup.py README.md LICENSE "$$bare/source"
	$(PYTHON) -c 'import shutil, sys # leaves out what another process may be writing
	for name in sys.argv[2:]: shutil.copytree(name, sys.argv[1] + "/" + name, ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.so.part"))' \
	  "$$bare/source" protos train export serving
	for extra in "" client serving http; do
	  place="$$bare/$${extra:-plain}"
	  # The first environment builds the wheel for all, and its pip installs into all.
	  $(PYTHON) -m venv $${extra:+--without-pip} "$$place"
	  pip=("$$bare/plain/bin/pip" --python "$$place/bin/python" --disable-pip-version-check --quiet)
	  [ -d "$$bare/wheel" ] || "$${pip[@]}" wheel --no-deps --wheel-dir "$$bare/wheel" "$$bare/source"
	  "$${pip[@]}" install --no-compile -c requirements.txt "$$(echo "$$bare"/wheel/*.whl)$${extra:+[$$extra]}"
	done
	cd "$$bare"
	plain/bin/pip --python client/bin/python list --format freeze | cut -d= -f1 | sort | tr '\n' ' '
	client/bin/twinspire-client --help >/dev/null
	client/bin/python -c "import twinspire.serving.client; print('and the client runs with that')"
	http/bin/python -c "import twinspire.serving.gateway.process; print('the gateway runs without the service')"
	http/bin/twinspire-gateway --help >/dev/null
	unit="$$(sed -n 's|^ExecStart=/opt/twinspire/bin/\(.*\) $$TWINSPIRE_GATEWAY$$|\1|p' $(CURDIR)/serving/deploy/systemd/twinspire-gateway.service)"
	http/bin/$$unit --port 0 --port-file port >/dev/null & started=$$!
	for _ in $$(seq 300); do [ ! -s port ] || break; sleep .1; done
	kill $$started
	wait $$started
	test -s port
	echo "the gateway starts as its unit starts it: $$unit"
	! http/bin/python -c "import onnxruntime" 2>/dev/null || { echo "onnxruntime is here, so this proves nothing" >&2; exit 1; }
	! serving/bin/python -c "import torch" 2>/dev/null || { echo "torch is here, so this proves nothing" >&2; exit 1; }
	serving/bin/python -c "import twinspire.serving.server, twinspire.serving.client; print('serving runs without torch')"
	serving/bin/twinspire-serving serve --help >/dev/null
	serving/bin/twinspire-client --help >/dev/null
	for program in plain/bin/twinspire-*; do
	  said="$$("$$program" --help 2>&1 || true)"
	  grep -q "^error: [a-z]* is not installed; it comes with the extra '[a-z]*' of twinspire$$" <<< "$$said" || {
	    echo "$$program: $$said" >&2; exit 1; }
	done
	echo "and each program names the extra that it lacks"

dist: setup ## a wheel of this version in dist/
	@rm -rf build # of which setuptools would take modules that are gone
	$(PY) -m pip wheel --disable-pip-version-check --quiet --no-deps --wheel-dir dist .
	ls dist

test-hostile: setup ## attack a real service for SECONDS=180, beside good clients; ONLY=floods,watch HAPROXY=1 ONE_CORE=1 AT_ONCE=1 JSON=path
	@$(PY) -m tests.serving.hostile $(if $(SECONDS),--seconds $(SECONDS)) $(if $(ONLY),--only $(ONLY)) \
	  $(if $(HAPROXY),--haproxy) $(if $(ONE_CORE),--one-core) $(if $(AT_ONCE),--at-once) $(if $(FLAGS),"--flags=$(FLAGS)") $(if $(JSON),--json "$(JSON)")

held-out: setup ## train with the defaults on data sets that no rule was chosen on: SETS="senses changes lectures" SEEDS="0 1 2"
	@$(PY) -m tests.held_out $(or $(SETS),senses changes lectures) $(if $(SEEDS),--seeds $(SEEDS))

# gRPC stubs into a folder. The .proto files import each other as protos/NAME, in every language; Python as twinspire.protos.
define stubs
	$(PY) -m grpc_tools.protoc -I. --python_out="$(1)" --pyi_out="$(1)" --grpc_python_out="$(1)" protos/*.proto
	sed -i.old "s/from protos import/from twinspire.protos import/; s/'protos\.\([a-z]*_pb2\)'/'twinspire.protos.\1'/" "$(1)"/protos/*_pb2*
	rm "$(1)"/protos/*.old
endef

lint: setup ## ruff, mypy, import rules, and whether generated files are fresh
	@$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy -p twinspire -p tests
	$(VENV)/bin/lint-imports --no-logo
	fresh="$$(mktemp -d)"; trap 'rm -rf "$$fresh"' EXIT
	$(call stubs,$$fresh)
	mkdir -p "$$fresh/serving/client"
	$(PY) tests/helpers/blocking_client.py "$$fresh/serving/client/blocking.py"
	for made in "$$fresh"/protos/* "$$fresh"/serving/client/*; do
	  cmp -s "$$made" "$${made#"$$fresh"/}" || { echo "$${made#"$$fresh"/} is stale: make protos" >&2; exit 1; }
	done

protos: setup ## write the gRPC stubs and the blocking client anew
	@$(call stubs,.)
	$(PY) tests/helpers/blocking_client.py serving/client/blocking.py

# Not a part of `make setup`, and not in .venv, whose packages `pydocs` reads.
$(DOCS)/.installed: train/docs/requirements.txt requirements.txt | setup
	@rm -rf $(DOCS)
	$(PY) -m pip install --disable-pip-version-check --quiet --no-compile --target $(DOCS) -c requirements.txt -r $<
	touch $@

docs: setup $(DOCS)/.installed ## pages, tutorial, notebooks and reference as a site in .cache/site; SERVE=1 serves it on 127.0.0.1; REPOSITORY=url links to sources
	@export NO_MKDOCS_2_WARNING=1 PYTHONPATH="$$PYTHONPATH:$(DOCS)" $(if $(REPOSITORY),REPOSITORY="$(REPOSITORY)")
	$(PY) -m mkdocs $(if $(SERVE),serve --dev-addr 127.0.0.1:$(SITE_PORT),build --strict --quiet) --config-file train/docs/mkdocs.yml
	$(if $(SERVE),,echo $(CURDIR)/.cache/site/index.html)

# Jupyter chooses the versions of what it brings along itself.
.cache/jupyter/.installed: train/docs/requirements.txt requirements.txt | setup
	@rm -rf $(@D)
	$(PY) -m pip install --disable-pip-version-check --quiet --no-compile --target $(@D) -c requirements.txt \
	  -c train/docs/requirements.txt notebook==7.6.5
	touch $@

notebooks: setup .cache/jupyter/.installed ## open the notebooks of train/docs in Jupyter
	@PYTHONPATH="$$PYTHONPATH:.cache/jupyter" exec $(PY) -m notebook train/docs/notebooks $(FLAGS)

clean: ## remove data sets, bundles and caches; .venv, mlruns and live items (.cache/live) stay
	@find .cache -mindepth 1 -maxdepth 1 -not -name live -exec rm -rf {} + 2>/dev/null || true
	rm -rf dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	echo
	echo "  CONFIG=train/configs/debian.toml names another experiment; JSON=path writes a command's result there."

# A query or a reason is text, not make: what looks like a variable in it stays as it is.
override Q := $(value Q)
override HISTORY := $(value HISTORY)
override REASON := $(value REASON)
override TO := $(value TO)
export Q HISTORY REASON TO
export PYTHONPATH := $(CURDIR)/.import$(if $(PYTHONPATH),:$(PYTHONPATH))
# Programs then suggest commands of make.
export TWINSPIRE_MAKE := 1
