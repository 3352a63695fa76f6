#!/usr/bin/env bash
# Usage: deploy_lora.sh [RELEASE]
#
# Stage 3: check RELEASE (default loras/latest; a name or a path), load it into the running server, move
# loras/current to it, watch it for MONITOR_DURATION seconds, and roll back where it does worse than it must.
#
# Settings: MONITOR_DURATION ROLLBACK_THRESHOLD_SUCCESS ROLLBACK_THRESHOLD_LATENCY COUNCIL_URL
# NOTIFICATION_WEBHOOK, from the environment or .env. The log is logs/deployment_<UTC time>.log.
#
# Exit codes: 0 deployed, 10 it serves already, 20 rolled back, 30 release refused (what served goes on serving),
# 1 failed, 2 usage, 75 another deployment or rollback runs.
set -euo pipefail
# shellcheck source=cron/lib.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/cron/lib.sh"

case ${1-} in
  -*) no_more "$@" ;;
  *) no_more "${@:2}" ;;
esac
begin deployment loras/.lock
run "$PYTHON" -m agent0.rollout deploy "${1-loras/latest}"
