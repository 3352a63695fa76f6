#!/usr/bin/env bash
# Usage: train_lora.sh
#
# Stage 2: train a QLoRA adapter on the pool of verified rewrites in training_data/, publish it as a new release
# under loras/adapters/ and move loras/latest to it. What serves (loras/current) is not touched.
#
# Settings: BATCH_SIZE GRADIENT_ACCUMULATION LEARNING_RATE NUM_EPOCHS LORA_RANK LORA_ALPHA MIN_FAILURES_TO_TRAIN
# TRAIN_MINUTES TRAIN_FROM TRAIN_RECIPE NOTIFICATION_WEBHOOK, from the environment or .env. The log is logs/training_<UTC time>.log.
#
# Exit codes: 0 trained, 10 nothing to train, 1 failed, 2 usage, 75 another training runs.
set -euo pipefail
# shellcheck source=cron/lib.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/cron/lib.sh"

no_more "$@"
begin training loras/.train.lock
# Niceness counts within a session only, where the kernel shares out by sessions: so this gets one, and that is nice, too.
# shellcheck disable=SC2016 # the inner bash expands
run setsid nice bash -c 'echo 10 2>/dev/null >/proc/self/autogroup; exec "$@"' _ "$PYTHON" -m agent0.train
