# `make demo` and `make test` work from a bare clone: the first call installs everything into .venv.
# ARGS is handed on: make demo ARGS="--episodes 5", make test ARGS="-k gate".
SHELL := /bin/bash
BIN := .venv/bin
INSTALLED := .venv/.installed
INSTALLED_CHECK := .venv/.installed-check
FAULTS := build/fault_matrix.json
PINS := pyproject.toml constraints.txt .ci/install $(wildcard ros_ws/src/armature_ros/setup.py)

# The environment brings its own ROS 2. One sourced in this shell would be loaded over it, of another version.
unexport PYTHONPATH PYTHONHOME AMENT_PREFIX_PATH COLCON_PREFIX_PATH CMAKE_PREFIX_PATH RMW_IMPLEMENTATION ROS_DISTRO
ifdef AMENT_PREFIX_PATH
unexport LD_LIBRARY_PATH
endif
# Without kept byte code, as images of containers often ask for it, every node compiles what it imports: twice the start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo demo-full test test-all fault-matrix coverage mutate check install clean

help:
	@echo "make demo       20 episodes of the embedded checkpoint on the ROS 2 graph"
	@echo "make demo-full  record demonstrations, train, deploy, evaluate (STATE=1: from simulator state)"
	@echo "make test       all tests but the slow ones;  make test-all: all of them"
	@echo "make fault-matrix  run the tests of the fault matrix, write docs/fault_matrix.md"
	@echo "make coverage   every line of the safety gate and the scheduler is tested;  make mutate: and every change noticed"
	@echo "make check      lint, format, types"
	@echo "make clean      remove .venv and build outputs; keeps runs/"

install: $(INSTALLED)

demo: $(INSTALLED)
	@$(BIN)/armature demo $(ARGS)

demo-full: $(INSTALLED)
	@$(BIN)/armature demo --from-scratch $(if $(STATE),--state) $(ARGS)

# One BLAS thread per process: with more, the simulator's small products wait for each other.
test test-all fault-matrix coverage: export OMP_NUM_THREADS = 1
test test-all fault-matrix coverage: export OPENBLAS_NUM_THREADS = 1

test: $(INSTALLED)
	@.ci/run-tests "not slow" $(ARGS)

test-all: $(INSTALLED)
	@.ci/run-tests "slow or not slow" $(ARGS)

# A run that fails leaves the document as it is.
fault-matrix: $(INSTALLED)
	@rm -f $(FAULTS)
	@.ci/run-tests "fault" --fault-matrix=$(FAULTS) $(ARGS)
	@$(BIN)/python tests/fault_table.py $(FAULTS) docs/fault_matrix.md

# What stands between a policy and the arm; few examples of each property reach every line.
PROVED := safety_gate limiter pursuit arm_watch request_check limits control_step chunk_scheduler blending \
    delay_estimate command_trace residual takeover
coverage: $(INSTALLED)
	@HYPOTHESIS_PROFILE=mutation $(BIN)/python -m pytest tests/control -q --deselect tests/control/test_limiter_proof.py \
	    $(PROVED:%=--cov=armature.control.%) --cov-report=term-missing --cov-fail-under=100 $(ARGS)

# About half an hour on one core; goes on where it was interrupted.
mutate: $(INSTALLED_CHECK)
	@$(BIN)/python .ci/mutate --max-children $(or $(JOBS),2)

check: $(INSTALLED_CHECK)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright

clean:
	rm -rf .venv build *.egg-info ros_ws/build ros_ws/install ros_ws/log ros_ws/src/*/*.egg-info
	rm -rf .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A moved clone needs a new environment.
ifneq ($(shell cat .venv/.path 2>/dev/null),$(CURDIR))
.PHONY: $(INSTALLED)
endif

# The stamps are written last, so that an interrupted installation is taken up again.
$(INSTALLED): $(PINS)
	@.ci/install all
	@touch $@

$(INSTALLED_CHECK): $(INSTALLED)
	@.ci/install all check
	@touch $@
