#!/usr/bin/env bash
# Compiles and tests the Android app without Google's SDK, draws its screens, and makes a signed APK of its own classes and
# resources. What that proves and what not: docs/android.md. Everything it makes is under target folders.
set -euo pipefail
cd "$(dirname "$0")"
target=$PWD/target
app=$PWD/../app/src/main

need() { # command, Debian package
  command -v "$1" >/dev/null || missing+=("$2")
}
missing=()
need mvn maven
need java openjdk-17-jdk-headless
need aapt2 aapt
need zipalign zipalign
need apksigner apksigner
need zip zip
# Phones' font, and what Skia links against, for the pictures of the screens.
[[ -e /usr/share/fonts/truetype/roboto/unhinted/RobotoTTF/Roboto-Regular.ttf ]] || missing+=(fonts-roboto-unhinted)
ldconfig -p | grep -q libGL.so.1 || missing+=(libgl1)
ldconfig -p | grep -q libfontconfig.so.1 || missing+=(libfontconfig1)
if ((${#missing[@]})); then
  echo "installing ${missing[*]}"
  [[ $(id -u) == 0 ]] || { echo "as root, please: apt-get install ${missing[*]}" >&2; exit 2; }
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

rm -rf target ./*/target
mkdir -p target

# What is quickest to fail comes first. android.jar is Robolectric's android-all: API 34, resources included.
fast=(-XX:TieredStopAtLevel=1 -XX:+UseSerialGC)
export MAVEN_OPTS="${fast[*]}"
mvn -B -q -N initialize
echo "== manifest and resources"
sed 's/<manifest /&package="org.pecore.demo" /' "$app/AndroidManifest.xml" >target/AndroidManifest.xml
aapt2 compile --dir "$app/res" -o target/resources.zip
# aapt2 says "Unknown chunk type" of a part of API 34's resource table that is newer than itself.
aapt2 link -I target/tools/android.jar --manifest target/AndroidManifest.xml --min-sdk-version 26 --target-sdk-version 34 \
  --version-code 1 --version-name ci -o target/unsigned.apk target/resources.zip 2> >(grep -v "Unknown chunk type '200'" >&2)

echo "== style"
java "${fast[@]}" -jar target/tools/ktlint.jar --relative "../**/*.kt" "../**/*.kts" "!**/target/**"

echo "== core, app, tests, pictures of the screens"
mvn -B -q package

echo "== dex and signature"
# dx wants class files of Java 8. Compose's inline functions need 11, and what kotlinc writes for 11 has nothing that 8 has not
# but the number, lambdas and strings being compiled to classes and calls (pom.xml); dx itself refuses any other instruction.
python3 - core/target/classes app/target/classes target/dex-input <<'PYTHON'
import pathlib, sys

*sources, out = map(pathlib.Path, sys.argv[1:])
for source in sources:
    for file in source.rglob("*.class"):
        to = out / file.relative_to(source)
        to.parent.mkdir(parents=True, exist_ok=True)
        data = file.read_bytes()
        to.write_bytes(data[:6] + (52).to_bytes(2, "big") + data[8:])
PYTHON
java -cp target/tools/dx.jar com.android.dx.command.Main --dex --min-sdk-version=26 --output=target/classes.dex target/dex-input
(cd target && zip -q unsigned.apk classes.dex && zipalign -f 4 unsigned.apk aligned.apk)
keytool -genkeypair -keystore target/throwaway.p12 -storepass throwaway -alias ci -keyalg RSA -keysize 2048 -dname CN=ci 2>/dev/null
apksigner sign --ks target/throwaway.p12 --ks-pass pass:throwaway --min-sdk-version 26 --out target/app.apk target/aligned.apk
apksigner verify --min-sdk-version 26 target/app.apk
echo "the app compiles, its tests pass: $target/app.apk (not runnable: docs/android.md), screens in $target/screens"
