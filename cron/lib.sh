# shellcheck shell=bash
# What the scripts share (sourced): paths, log, die, lock, run. Anything with a number or JSON is Python's.
ROOT=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
PYTHON=$ROOT/.venv/bin/python SCRIPT=$(readlink -f "$0")
STAMP=$(date -u +%Y%m%dT%H%M%SZ)

log() { # one UTC-stamped line to stdout and to each file of COUNCIL_LOG; a closed terminal stops nothing
  local line file files
  line="$(date -u +%Y-%m-%dT%H:%M:%SZ) ${SCRIPT##*/}: $*"
  echo "$line" 2>/dev/null || :
  IFS=: read -ra files <<<"${COUNCIL_LOG:-}"
  for file in "${files[@]}"; do echo "$line" >>"$file"; done
}

die() { # die CODE MESSAGE: one line on stderr and in the log
  log "${*:2}" >/dev/null
  echo "${SCRIPT##*/}: ${*:2}" >&2
  exit "$1"
}

no_more() { # the header where an argument asks for help, exit 2 on anything else
  (($#)) || return 0
  [[ $1 == -h || $1 == --help ]] || die 2 "unknown argument '$1'; see --help"
  awk 'NR > 1 { if (!/^# |^#$/) exit; sub(/^# ?/, ""); print }' "$SCRIPT"
  exit 0
}

enter() { # find Python and the home, where relative paths start
  [[ -x $PYTHON ]] || die 1 "$ROOT/.venv is missing; run \`make setup\` in $ROOT"
  umask 077 && mkdir -p "${COUNCIL_HOME:=$ROOT}"/{logs,loras}
  cd "$COUNCIL_HOME" || exit 1
  [[ $ROOT$PWD != *:* ]] || die 1 "$PWD, or $ROOT: a path with a colon cannot be logged to; move it"
  export COUNCIL_HOME=$PWD PYTHONPATH=$ROOT PYTHONSAFEPATH=1
}

begin() { # begin KIND LOCK: enter; then lock first, trap second, log third
  KIND=$1
  enter
  lock "$2"
  trap finish EXIT
  trap stop HUP INT TERM
  trap '' PIPE
  export COUNCIL_LOG=$PWD/logs/${KIND}_$STAMP.log${COUNCIL_LOG:+:$COUNCIL_LOG}
  log "started; log ${COUNCIL_LOG%%:*}"
}

lock() { # hold FILE until this process and its children end; exit 75 where another run does
  type -P flock >/dev/null || die 1 'flock is missing on PATH; install util-linux'
  exec {LOCK}>>"$1"
  flock -n "$LOCK" || die 75 "$(<"$1") holds $PWD/$1; wait for it, or stop it"
  echo "${SCRIPT##*/} (pid $$, since $STAMP)" >"$1"
}

run() { # run COMMAND... as a child that a signal to this script reaches; returns its exit code
  "$@" &
  CHILD=$!
  wait "$CHILD"
}

stop() { # on a signal: end the child, and exit with its code: it may have put something right
  local code=143
  trap '' HUP INT TERM
  log 'stopped by a signal'
  kill "${CHILD-}" 2>/dev/null && code=0 && { wait "$CHILD" || code=$?; }
  exit "${STOPPED:-$code}"
}

tell() { # a run by hand tells by itself; a night tells once, at its end
  [[ -n ${COUNCIL_NIGHT:-} ]] || "$PYTHON" -m agent0.notify "$KIND" --exit-code "$1" --since "$STAMP"
}

finish() { # on any exit: log the exit code, tell, and keep the code
  local code=$?
  set +e
  trap '' HUP INT TERM
  log "exit $code"
  tell "$code"
  exit "$code"
}
