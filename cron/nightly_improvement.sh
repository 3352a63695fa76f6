#!/usr/bin/env bash
# Usage: nightly_improvement.sh
#
# The whole night: pre-flight -> harvest -> training -> gate -> deployment -> validation -> cleanup, and one
# notification that says what happened. `make cron-line` prints the crontab line.
#
# Settings: MIN_FREE_DISK_GB KEEP_RELEASES COUNCIL_URL NOTIFICATION_WEBHOOK and those of the stages, from the
# environment or .env. The log of every stage is logs/nightly_<UTC time>.log; the story is logs/ledger.jsonl.
#
# Exit codes: 0 deployed, 10 nothing to do, 20 rolled back, 30 candidate refused or on hold, 1 failed, 2 usage,
# 75 another night (or a stage by hand) runs.
set -euo pipefail
# shellcheck source=cron/lib.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/lib.sh"

STAGE=start SECONDS=0 TIMES=()
# shellcheck disable=SC2034 # for `stop`: a night that was stopped says so, whatever its stage says
STOPPED=143

stage() { # stage NAME COMMAND...: a banner, the command, its seconds; returns its exit code
  local code=0 start=$SECONDS
  STAGE=$1
  log "===== $STAGE ====="
  run "${@:2}" || code=$?
  TIMES+=(--stage "$STAGE=$((SECONDS - start))")
  log "===== $STAGE: exit $code after $((SECONDS - start)) s ====="
  return "$code"
}

improve() { # the chain up to what serves; returns what happened, with the stage that it ended in as STAGE
  local code=0
  stage pre-flight "$PYTHON" -m agent0.night preflight || return
  stage harvest "$PYTHON" "$ROOT/harvest_failures.py" || code=$?
  [[ $code == @(0|10) ]] || return "$code" # 10: nothing new, but the pool may hold what no training has seen
  code=0
  stage training "$ROOT/train_lora.sh" || code=$?
  # 10: nothing new, but what an earlier night left on hold, or never came to, is tried
  [[ $code == 0 || $code == 10 && -n $("$PYTHON" -m agent0.adapters waiting) ]] || return "$code"
  code=0
  stage gate "$PYTHON" -m agent0.gate loras/latest || code=$?
  [[ $code == @(0|30) ]] || return "$code" # 30: it is not tried, and what serves is validated all the same
  ((code)) || stage deployment "$ROOT/deploy_lora.sh" loras/latest || code=$?
  [[ $code == @(0|20|30) ]] || return "$code"
  stage validation "$PYTHON" -m agent0.night validate || return
  return "$code"
}

# shellcheck disable=SC2329 # `finish` calls it
tell() { # the night's one notification and its line in the ledger and the journal
  "$PYTHON" -m agent0.night tell --exit-code "$1" --at "$STAGE" --seconds "$SECONDS" "${TIMES[@]}"
  logger -t autogen-council "night $COUNCIL_NIGHT: exit $1 at $STAGE; ${COUNCIL_LOG%%:*}" 2>/dev/null
}

no_more "$@"
export COUNCIL_NIGHT=$STAMP
begin nightly logs/.night.lock
verdict=0
improve || verdict=$?
ended_at=$STAGE
if stage cleanup "$PYTHON" -m agent0.night cleanup || [[ $verdict != @(0|10) ]]; then
  STAGE=$ended_at
  exit "$verdict"
fi
exit 1
