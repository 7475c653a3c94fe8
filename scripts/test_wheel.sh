#!/usr/bin/env bash
# Build the wheel, install it without extras into a fresh environment, and run there what a base install is for.
#
#   scripts/test_wheel.sh [PYTHON]      PYTHON: one with the `convert` extra, which makes the bundle; .venv's by default
#
# Also: the wheel has one top-level package, and lives beside configobj, which has a `validate` module of its own.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$(realpath --no-symlinks "${1:-.venv/bin/python}")
checkout=$PWD
folder=$PWD/build/wheel
made=$folder/made
rm -rf "$folder"
mkdir -p "$folder"

"$python" -m pip wheel --quiet --no-deps --wheel-dir "$folder" .
top=$("$python" -c 'import sys, zipfile; print(*sorted({n.split("/")[0] for n in zipfile.ZipFile(sys.argv[1]).namelist() if ".dist-info/" not in n}))' "$folder"/*.whl)
[[ $top == pecore ]] || { echo "the wheel's top level is: $top"; exit 1; }

PYTHONPATH=. "$python" tests/base/make_bundle.py "$made" >"$folder/make.log" 2>&1 || { cat "$folder/make.log"; exit 1; }
"$python" -m venv "$folder/env"
bin=$folder/env/bin
before=$(du -sk "$folder/env" | cut -f1)
"$bin/pip" install --quiet --disable-pip-version-check "$folder"/*.whl
after=$(du -sk "$folder/env" | cut -f1)

cd / # so that the checkout is not what is imported
"$bin/pip" install --quiet --disable-pip-version-check configobj
"$bin/pip" install --quiet --disable-pip-version-check --force-reinstall --no-deps "$folder"/*.whl # each after the other
"$bin/python" -c 'from validate import Validator; from pecore.validate.rules import runtimes; Validator(), runtimes()'
"$bin/python" "$checkout/tests/base/exercise.py" "$made/bundle" "$made/pictures" >"$folder/printed.json"
"$bin/python" -c '
import sys, time
start = time.perf_counter()
from pecore import PerceptionEncoder
PerceptionEncoder(sys.argv[1]).embed_image(sys.argv[2])
print(f"{time.perf_counter() - start:.1f} s from `import pecore` to the first embedding of a small tower")
' "$made/bundle" "$made/pictures/astronaut.png"
echo "$(((after - before) / 1024)) MB installed"
"$python" "$checkout/tests/base/check.py" "$made" "$folder/printed.json"
