#!/usr/bin/env bash
# Usage: rollback_lora.sh [--to RELEASE] [--list] [--dry-run]
#
# The way back: move the server and loras/current to the last good release, and keep what was taken out as
# loras/failed_<UTC time> for analysis.
#
#   --to RELEASE   go to this release instead of the last good one
#   --list         list the releases to go back to, and change nothing
#   --dry-run      say what would be done, and change nothing
#
# Settings: COUNCIL_URL NOTIFICATION_WEBHOOK, from the environment or .env.
# The log is logs/rollback_<UTC time>.log.
#
# Exit codes: 0 rolled back, 10 nothing to go back to, 30 release refused, 1 failed, 2 usage,
# 75 another deployment or rollback runs.
set -euo pipefail
# shellcheck source=cron/lib.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/cron/lib.sh"

command=("$PYTHON" -m agent0.rollout rollback "$@")
look=
while (($#)); do
  case $1 in
    --to) [[ -n ${2-} && $2 != -* ]] || die 2 '--to needs a release; see --help' && shift ;;
    --list | --dry-run) look=yes ;;
    *) no_more "$@" ;;
  esac
  shift
done

if [[ -n $look ]]; then
  enter
  exec "${command[@]}"
fi
begin rollback loras/.lock
run "${command[@]}"
