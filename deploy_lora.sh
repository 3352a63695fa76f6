#!/usr/bin/env bash
# Usage: deploy_lora.sh [RELEASE]
#
# Stage 3: check RELEASE (default loras/latest; a name or a path), load it into the running server, let it
# answer 10 %, 50 %, 100 % of the users within MONITOR_DURATION seconds, and promote it to loras/current, hold it
# or roll it back on the evidence. DEPLOY_MODE=direct moves loras/current first, and then watches.
#
# Settings: MONITOR_DURATION DEPLOY_MODE ROLLBACK_THRESHOLD_SUCCESS ROLLBACK_THRESHOLD_LATENCY COUNCIL_URL
# NOTIFICATION_WEBHOOK, from the environment or .env. The log is logs/deployment_<UTC time>.log.
#
# Exit codes: 0 deployed, 10 it serves already, 20 rolled back, 30 release refused or on hold (what served goes on
# serving), 1 failed, 2 usage, 75 another deployment or rollback runs.
set -euo pipefail
# shellcheck source=cron/lib.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/cron/lib.sh"

case ${1-} in
  -*) no_more "$@" ;;
  *) no_more "${@:2}" ;;
esac
begin deployment loras/.lock
run "$PYTHON" -m agent0.rollout deploy "${1-loras/latest}"
