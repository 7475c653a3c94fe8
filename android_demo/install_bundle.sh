#!/usr/bin/env bash
# Copies a bundle to the phone's app, checked on both sides.  Example:  android_demo/install_bundle.sh out/pe_core_base_224
set -euo pipefail

app=org.pecore.demo
die() {
  echo "install_bundle.sh: $*" >&2
  exit 2
}

[[ $# == 1 ]] || die "name one bundle folder: install_bundle.sh out/pe_core_base_224"
bundle=${1%/}
[[ -f $bundle/manifest.json ]] || die "$bundle has no manifest.json: name the folder that pecore convert wrote"

# The files that the app reads, each with its sha256: the vision files, the labels', the text tower's and the self-test's reference.
if ! listed=$(python3 - "$bundle" <<'PYTHON'
import hashlib, json, pathlib, re, sys

folder = pathlib.Path(sys.argv[1])


def fail(sentence):
    sys.exit(f"install_bundle.sh: {sentence}")


try:
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    wanted = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    if "labels" not in manifest and "text" not in manifest:
        size = manifest["variant"]["size"]
        fail(f"{folder} has neither labels (pecore labels --size {size} --labels imagenet --out {folder}) nor a text tower "
             f"(pecore convert --size {size} --tower text)")
    for section in ("labels", "text"):
        wanted |= {name: entry["sha256"] for name, entry in manifest.get(section, {}).get("files", {}).items()}
    if reference := manifest.get("self_test", {}).get("reference"):
        wanted[reference["name"]] = reference["sha256"]
except (ValueError, KeyError, TypeError, AttributeError) as error:
    fail(f"{folder}/manifest.json is damaged ({error!r}): convert again")
for name, sha256 in wanted.items():
    if not re.fullmatch(r"[\w.-]+", name):
        fail(f"{name!r} in manifest.json is no file name of a bundle")
    if not (folder / name).is_file():
        fail(f"{folder}/{name} is missing: convert again")
    with open(folder / name, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            fail(f"{folder}/{name} is not the file in the manifest (sha256): convert again")
wanted["manifest.json"] = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
print("\n".join(f"{sha256}  {name}" for name, sha256 in wanted.items()))
PYTHON
); then exit 2; fi

command -v adb >/dev/null || die "adb is not on the PATH: install Android's platform-tools (Debian: apt install adb)"
devices=$(adb devices | sed 1d | grep -c -w device || true)
[[ $devices != 0 ]] || die "adb sees no phone: plug it in, allow USB debugging on it, and look at: adb devices"
[[ $devices == 1 || -n ${ANDROID_SERIAL:-} ]] || die "adb sees $devices phones: choose one with ANDROID_SERIAL=... (adb devices)"
[[ -n $(adb shell pm path "$app" | tr -d '\r') ]] || die "the app is not on the phone: run it from Android Studio first (android_demo/README.md)"

files=/sdcard/Android/data/$app/files
# The app makes its folder when it starts; one made by adb would not be the app's own.
if ! adb shell "[ -d $files ]"; then
  adb shell am start -n "$app/.MainActivity" >/dev/null
  sleep 3
  adb shell "[ -d $files ]" || die "the app did not make $files: start it once by hand, then try again"
fi

name=$(basename "$(cd "$bundle" && pwd)")
[[ $name =~ ^[A-Za-z0-9_.-]+$ ]] || die "rename $name: letters, digits, '_', '.' and '-' only"
part=$files/bundles/.$name.part
adb shell "rm -rf $part && mkdir -p $part"
while read -r _ file; do
  adb push "$bundle/$file" "$part/$file" </dev/null
done < <(echo "$listed")
if [[ $(adb shell "cd $part && sha256sum $(awk '{print $2}' <<<"$listed" | tr '\n' ' ')" | tr -d '\r') != "$listed" ]]; then
  adb shell "rm -rf $part"
  die "what arrived on the phone is not what was sent (is its storage full?): try again"
fi
adb shell "rm -rf $files/bundles/$name && mv $part $files/bundles/$name"
echo "$name is on the phone: open the app, or choose 'Look for bundles again' in its menu."
