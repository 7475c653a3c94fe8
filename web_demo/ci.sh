#!/usr/bin/env bash
# The page's tests: its modules in Node, then all of it in Chromium. BIN is the folder of the Python to use.
set -euo pipefail
cd "$(dirname "$0")/.."
export BIN=${BIN:-.venv/bin} WEB_WORK=${WEB_WORK:-build/web} CHROMIUM=${CHROMIUM:-/usr/bin/chromium}

missing=()
command -v "$CHROMIUM" > /dev/null || missing+=(chromium)
command -v npm > /dev/null || missing+=(npm)
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "the browser tests need ${missing[*]}: install them, or name a Chromium with CHROMIUM=PATH" >&2
    exit 1
  fi
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
fi

"$BIN/python" web_demo/tests/prepare.py "$WEB_WORK"
cd web_demo
npm ci --ignore-scripts --no-audit --no-fund
npm run vendor
npm test
npm run test:browser
