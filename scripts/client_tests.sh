#!/usr/bin/env bash
# `pecore serve` as clients that nobody here wrote see it: inference-sdk and openai, each in an environment of its own
# (they pin older versions of what we use), curl, and Schemathesis over the OpenAPI document that is served.
# BIN is the folder of the Python to serve with; CLIENTS where the environments are kept.
set -euo pipefail
cd "$(dirname "$0")/.."
BIN=$(realpath "${BIN:-.venv/bin}") PYTHON=${PYTHON:-python3}
mkdir -p "${CLIENTS:=build/clients}"
CLIENTS=$(realpath "$CLIENTS")
export PYTHONPATH=$PWD

environment() {
  [ -e "$CLIENTS/$1/.ready" ] && return
  "$PYTHON" -m venv "$CLIENTS/$1"
  "$CLIENTS/$1/bin/python" -m pip install --quiet --disable-pip-version-check "${@:2}"
  touch "$CLIENTS/$1/.ready"
}
environment sdk inference-sdk==1.8.3
environment openai 'openai>=3,<4'
environment schemathesis 'schemathesis>=4.32,<5'

work=$(mktemp -d)
trap 'kill "${server:-}" 2> /dev/null || true; rm -rf "$work"' EXIT
"$BIN/python" -m tests.server.tiny_bundle "$work/bundle" > /dev/null 2>&1
"$BIN/python" -c 'import sys; from PIL import Image; from skimage import data
Image.fromarray(data.chelsea()).save(sys.argv[1])' "$work/photo.jpg"

# start OPTIONS...: a server on a free port; sets $server and $address.
start() {
  : > "$work/log"
  "$BIN/python" -c 'from pecore.cli import main; main()' serve "$work/bundle" --port 0 --json "$@" > "$work/log" 2> "$work/errors" &
  server=$!
  for _ in $(seq 300); do
    address=$(sed -n '1s/.*"address": "\([^"]*\)".*/\1/p' "$work/log")
    [ -n "$address" ] && return
    kill -0 "$server" || break
    sleep 0.2
  done
  cat "$work/errors"
  exit 1
}

# stop: the server ends well, and has reported no fault of its own.
stop() {
  kill -TERM "$server"
  wait "$server"
  ! grep -A 30 Traceback "$work/errors"
}

start --clip-alias
echo "curl"
curl -sSf "${address}v1/embeddings" -H 'Content-Type: application/json' -d '{"input": "a cat"}' | grep -q '"object":"embedding"'
printf '{"image": {"type": "base64", "value": "%s"}}' "$(base64 -w 0 "$work/photo.jpg")" > "$work/body.json"
curl -sSf "${address}perception_encoder/embed_image" -d @"$work/body.json" | grep -q '"embeddings":'
curl -sSf -H 'Transfer-Encoding: chunked' "${address}v1/classify" -d @"$work/body.json" | grep -q '"probability":'
[ "$(curl -s -o /dev/null -w '%{http_code}' "${address}perception_encoder/embed_image" -d '{"image": "/etc/passwd"}')" = 400 ]
[ "$(curl -s -o /dev/null -w '%{http_code}' -H 'Host: evil.example' "${address}info")" = 403 ]

echo "inference-sdk"
(cd "$CLIENTS" && "sdk/bin/python" -W ignore "$PYTHONPATH/tests/server/clients/sdk.py" "$address" "$work/photo.jpg" "$work/sdk.json")
(cd "$CLIENTS" && "sdk/bin/python" -W ignore "$PYTHONPATH/tests/server/clients/sdk_retry.py" "$address" "$work/photo.jpg")
echo "openai"
(cd "$CLIENTS" && "openai/bin/python" "$PYTHONPATH/tests/server/clients/openai_client.py" "$address" "$work/photo.jpg" "$work/openai.json")
"$BIN/python" tests/server/clients/check_answers.py "$work/bundle" "$work/sdk.json" "$work/openai.json" 2> /dev/null
stop

export SCHEMATHESIS_HOOKS=$PWD/tests/server/schemathesis_hooks.py
examples=${EXAMPLES:-20}
for key in "" s3cret; do
  echo "schemathesis${key:+, with a key}"
  start ${key:+--api-key "$key"}
  (cd "$work" && "$CLIENTS/schemathesis/bin/st" run "${address}openapi.json" --max-examples "$examples" --seed 1 --warnings off \
    ${key:+--header "Authorization: Bearer $key"}) > "$work/schemathesis" || { cat "$work/schemathesis" "$work/errors"; exit 1; }
  tail -1 "$work/schemathesis"
  stop
done
